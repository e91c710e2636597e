# oid-async in a container: slim, not root, with two folders to write to, /cache and /data.
#
#   docker build --tag oid-async .
#   docker run --rm --read-only --tmpfs /tmp --user "$(id -u):$(id -g)" \
#       --volume oid_cache:/cache --volume "$PWD:/data" oid-async download --category Dog --savepath dogs
#
# Other extras: docker build --build-arg EXTRAS=s3,dask ...
FROM python:3.13-slim AS build
ARG EXTRAS=s3,view
COPY pyproject.toml README.md LICENSE /source/
COPY oid_async /source/oid_async
RUN python -m venv /opt/oid_async
RUN /opt/oid_async/bin/pip install --no-cache-dir "/source[$EXTRAS]"

FROM python:3.13-slim
COPY --from=build /opt/oid_async /opt/oid_async
# Open to any user, as /tmp is: with `--user` what is saved in a mounted folder belongs to who runs the container.
RUN mkdir -m 1777 /cache /data
ENV PATH=/opt/oid_async/bin:$PATH
ENV OID_ASYNC_CACHE=/cache
USER 10001:10001
WORKDIR /data
VOLUME ["/cache", "/data"]
ENTRYPOINT ["oid-async"]
CMD ["--help"]
