/** Requests to the gallery's server. Addresses are relative, so that the page works behind a prefix, too. */

const NO_ANSWER = "The gallery's server does not answer. Is “oid-async view” still running?";
const NOT_ALLOWED = "This browser is not let in. Open the address that “oid-async view” has printed.";

/** What went wrong with a request, in a line for a person. */
export class RequestError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function messageOf(response) {
  if (response.status === 403) return NOT_ALLOWED;
  try {
    return (await response.json()).error.message;
  } catch {
    return `The gallery's server answered ${response.status}.`;
  }
}

async function getJson(path, signal) {
  let response;
  try {
    response = await fetch(path, { signal, headers: { Accept: "application/json" } });
    if (response.ok) return await response.json();
  } catch (error) {
    throw error.name === "AbortError" ? error : new RequestError(NO_ANSWER, 0);
  }
  throw new RequestError(await messageOf(response), response.status);
}

/** "train/0123" as a part of an address: each side encoded, the slash kept. */
const part = (image) => image.split("/").map(encodeURIComponent).join("/");

export const imageKey = ({ split, image_id: imageId }) => `${split}/${imageId}`;

export const fetchFolder = (signal) => getJson("api/folder", signal);

export const fetchPage = (query, offset, limit, signal) =>
  getJson(`api/images?${query ? `${query}&` : ""}offset=${offset}&limit=${limit}`, signal);

/** The place of an image in the result of a query, -1 if it is not among it. */
export const fetchPlace = async (query, image) => (await getJson(`api/place/${part(image)}?${query}`)).place ?? -1;

export const fetchImage = (image, signal) => getJson(`api/image/${part(image)}`, signal);

export const thumbnailAddress = (image) => `thumbnail/${part(image)}`;

export const imageAddress = (image) => `image/${part(image)}`;

/** The server's address of a mask, made relative to the page. */
export const maskAddress = (url) => url.replace(/^\//, "");
