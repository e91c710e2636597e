"""Values that the pages are made of, as the program has them: some usual ones, some nobody would wish for."""

import math
from typing import Any

from oid_async.report import Report
from oid_async.statistics.value import Statistics

# What a name would do if a page took it for markup, script or a rule of Vega's.
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    '"];alert(3);//',
    "datum.value === 1 ? alert(4) : 0",
    "<!--<script>",
    "Ball‮gpj\x1b[31m",
    "{{constructor.constructor('alert(5)')()}}",
    "&lt;b&gt;",
    "__proto__",
    "x" * 10_000,
)
LICENCE = "https://creativecommons.org/licenses/by/2.0/"


def statistics(names: list[str], *, of: str = "folder") -> dict[str, Any]:
    """Return statistics of images in which each name is a class, the first ones most often."""
    classes = []
    for index, name in enumerate(names):
        images = max(1, int(860_000 / (index + 1) ** 1.6))
        classes.append(
            {
                "label": f"/m/{index:05d}",
                "class_name": name,
                "images": images,
                "boxes": images * 3,
                "masks": images // 4,
                "relationships": images // 9 if index % 3 else 0,
                "labels": images * 2,
                "verified_absent": images // 3,
                "points": 0,
                "flags": {"IsOccluded": images * 2, "IsGroupOf": images // 7},
            }
        )
    share = [10 ** (-5 + index / 4) for index in range(21)]
    pairs = min(len(names), 25)
    return Statistics(of="folder").as_json() | {
        "of": of,
        "savepath": "train_data" if of == "folder" else None,
        "images": {"selected": 1_743_042, "ok": 1_740_000, "failed": 3_000, "pending": 42, "bytes": 513_000_000_000},
        "splits": {"train": 1_743_042, "validation": 41_620, "test": 125_436},
        "roles": {"selected": 1_700_000, "negative": 43_042},
        "sources": {"cvdf": 1_700_000, "original": 40_000},
        "reasons": {"not_found": 2_000, "gone": 1_000},
        "kinds": {"bbox": 14_610_229, "segmentation": 2_686_666},
        "classes": classes,
        "boxes_per_image": {
            "counts": [[n, int(900_000 * math.exp(-n / 9))] for n in range(1, 90)] + [[742, 1]],
            "mean": 8.38,
            "median": 5.0,
            "max": 742,
        },
        "box_share": {
            "edges": [0.0, *share],
            "counts": [5, *[int(9e5 * math.exp(-(((i - 12) / 4) ** 2))) for i in range(20)]],
            "median": 0.0432,
        },
        "box_aspect": {
            "edges": [2 ** (i / 2) for i in range(-8, 9)],
            "counts": [int(2e6 * math.exp(-((i - 7) ** 2) / 9)) for i in range(16)],
            "median": 0.87,
        },
        "box_positions": {
            "rows": 24,
            "columns": 24,
            "counts": [
                [int(90_000 * math.exp(-((x - 12) ** 2 + (y - 14) ** 2) / 40)) for x in range(24)] for y in range(24)
            ],
        },
        "cooccurrence": {
            "labels": [f"/m/{index:05d}" for index in range(pairs)],
            "classes": names[:pairs],
            "images": [[400_000 // (1 + i + j) ** 2 for j in range(pairs)] for i in range(pairs)],
        },
        "image_sizes": {
            "widths": {
                "edges": [0, 256, 512, 768, 1024, 1280],
                "counts": [3, 500, 20_000, 1_600_000, 9],
                "median": 1024,
            },
            "heights": {
                "edges": [0, 256, 512, 768, 1024, 1280],
                "counts": [9, 900, 900_000, 700_000, 9],
                "median": 768,
            },
            "megapixels": {"edges": [0, 0.25, 0.5, 0.75, 1], "counts": [90, 900, 1_600_000, 3_000], "median": 0.786},
            "most_common": [[1024, 768, 800_000], [1024, 683, 400_000], [768, 1024, 200_000]],
        },
        "flags": {"IsOccluded": {"yes": 9_000_000, "no": 5_000_000, "unknown": 610_229}},
        "licenses": {LICENCE: 1_743_000, "javascript:alert(6)": 40, "": 2},
        "authors": {"count": 120_000, "most": [[name, 500 - index] for index, name in enumerate(names[:20])]},
        "notes": ["120 images have annotations and no row in the image table; they are not counted."],
    }


def run(hosts: list[str], *, intervals: int = 400) -> dict[str, Any]:
    """Return the report of a run that asked these hosts, the first one most; it fetched nothing if there are none."""
    images = 500_000 if hosts else 0
    report = Report(
        selected=images,
        downloaded=images - 3_000 if hosts else 0,
        failed=3_000 if hosts else 0,
        bytes=150_000_000_000 if hosts else 0,
        requests=images,
        seconds=intervals * 4.0,
        failures={"not_found": 2_000, "timeout": 1_000} if hosts else {},
        sources={"cvdf": 400_000, "original": 97_000} if hosts else {},
        savepath="train_data",
    )
    return {
        "report": report.as_json(),
        "started": "2026-03-01T12:00:00.000+00:00",
        "hosts": {name: _host(images // (index + 1), index) for index, name in enumerate(hosts)},
        "throughput": {
            "interval_s": 4.0,
            "images": [int(1250 + 300 * math.sin(index / 20)) for index in range(intervals)],
            "bytes": [int(3.7e8 + 9e7 * math.sin(index / 20)) for index in range(intervals)],
            "failed": [index % 17 for index in range(intervals)],
        },
        "cpu": {"user_s": 800.5, "system_s": 200.25, "processes": 3},
    }


def _host(requests: int, index: int) -> dict[str, Any]:
    slower = 1 + index
    return {
        "requests": requests,
        "images": requests - 1_000,
        "bytes": requests * 300_000,
        "connections": 64,
        "first_byte_ms": {
            "p50": 20.5 * slower,
            "p90": 60.1 * slower,
            "p99": 400.0 * slower,
            "max": 9_000.0,
            "count": requests,
        },
        "total_ms": {
            "p50": 45.5 * slower,
            "p90": 130.1 * slower,
            "p99": 900.0 * slower,
            "max": 12_000.0,
            "count": requests,
        },
        "dns_ms": {"p50": 2.0, "p90": 3.0, "p99": 9.0, "max": 9.0, "count": 3},
        "connect_ms": {"p50": 12.0, "p90": 14.0, "p99": 40.0, "max": 41.0, "count": 64},
        "retries": {"timeout": 120, "server_error": 14},
        "waits": {
            "rate_cap": {"count": requests // 2, "seconds": 1_200.0 / slower},
            "backoff": {"count": 134, "seconds": 52.25},
        },
        "failures": {"not_found": 2_000, "timeout": 1_120, "server_error": 14},
        "other": {"requests": 12, "bytes": 120_000_000, "connections": 2},
    }
