#!/bin/bash
# A Slurm array that brings one selection into shards in one folder, without Dask; docs/clusters.md says more.
#
#   sbatch examples/cluster/download.sh                                   # the real dataset, into /shared/person
#   SAVEPATH=s3://my-bucket/person sbatch examples/cluster/download.sh    # a bucket: pip install "oid-async[s3]"
#
# Offline and without Slurm, as two tasks of an array. Tasks ask a server, not a folder, so the mirror is served:
#
#   oid-async demo --write-mirror demo_mirror
#   python -m http.server 8765 --bind 127.0.0.1 --directory demo_mirror &
#   export OID_ASYNC_MIRROR=http://127.0.0.1:8765 OID_ASYNC_CACHE="$PWD/demo_cache" SAVEPATH=person
#   export SLURM_ARRAY_TASK_COUNT=2 SLURM_ARRAY_TASK_MIN=0
#   (for task in 0 1; do SLURM_ARRAY_TASK_ID=$task bash examples/cluster/download.sh --part-size 8M & done; wait)
#
# The exit code of each is 0 when every part is done and no more images have failed than --max-failures allows.
# Submit it again to go on after a kill, or to ask once more for what failed by something that passes. Words behind the
# script's name are options of the download.
#SBATCH --job-name=open-images
#SBATCH --array=0-7
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=12:00:00
set -euo pipefail
# The cache holds the tables: one for all tasks, or each of them fetches its own 2.9 GB.
export OID_ASYNC_CACHE="${OID_ASYNC_CACHE:-/shared/oid-cache}"
# `exec`: a signal of Slurm's reaches the program, which lets go of its part within five seconds.
exec oid-async download --category Person --format webdataset --no-files \
    --savepath "${SAVEPATH:-/shared/person}" --cluster array --max-failures 1% "$@"
