#!/usr/bin/env bash
# Runs the pipeline twice, on this machine and through Slurm, and compares every byte of what they leave.
#
#     profiles/slurm/prove.sh               all cases (an hour or more on two cores)
#     profiles/slurm/prove.sh multi_hop     some
#     profiles/slurm/prove.sh _template     a case made of the template: minutes
#
# The Slurm run uses profiles/slurm as it stands, on the two nodes of local_cluster.sh, and is disturbed on purpose: while
# `intervene` runs, its node is drained and the job killed. What happened goes into docs/how_to/clusters.md.
# Needs `make setup` and the plugin (see config.yaml here); BIN says where they are, if not in .venv.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
cd "$here"
BIN=$(cd "${BIN:-.venv/bin}" && pwd)
cluster=profiles/slurm/local_cluster.sh

fail() { echo "error: $1" >&2; exit 1; }
"$BIN/python" -c 'import snakemake_executor_plugin_slurm' 2>/dev/null ||
    fail "the plugin is missing: $BIN/pip install --no-deps --requirement profiles/slurm/requirements.lock"

scratch=$(mktemp -d)
export CLUSTER_DIR=$scratch/cluster SLURM_CONF=$scratch/cluster/slurm.conf
disturber=
finish() {
    if [ -n "$disturber" ]; then kill "$disturber" 2>/dev/null || true; fi
    "$here/$cluster" stop >/dev/null 2>&1 || true
    rm -rf "$scratch"
}
trap finish EXIT

excerpt=$scratch/excerpt
say() { echo "$1" | tee -a "$excerpt"; }

copy() {    # copy NAME CASE...: the files of the repository, without anything computed, for these cases alone
    local to=$scratch/$1 case names
    shift
    mkdir "$to"
    git ls-files -z | xargs -0 cp --parents --target-directory "$to"
    rm -rf "$to"/figures/* "$to"/reports/*
    for case in "$@"; do
        if [ "$case" = _template ]; then cp -r "$to/experiments/_template" "$to/experiments/template"; fi
    done
    if [ $# -gt 0 ]; then
        names=$(IFS=, && echo "${*#_}")
        sed -i "s/^\( *\)cases: .*/\1cases: [$names]/" "$to/config.yaml"
        (cd "$to" && "$BIN/biology" lock)
    fi
}

results() {     # one line a file, logs left out
    (cd "$scratch/$1" && find data/runs figures reports -type f ! -name '*.log' -print0 | sort -z | xargs -0 sha256sum)
}

disturb() {     # drains the node on which `intervene` runs and kills the job there, as a crash would
    local id node
    until read -r id node _ < <(squeue --noheader --states=RUNNING --format="%i %N %k" | grep rule_intervene); do sleep 1; done
    sleep 10
    scontrol update nodename="$node" state=drain reason=maintenance
    scancel --full --signal=KILL "$id"
    say "  job $id (intervene) killed on $node, and $node drained:"
    sleep 2
    sinfo --Node --noheader --format="    %N %T" | sort -u | tee -a "$excerpt"
}

say "\$ profiles/slurm/prove.sh $*"
copy local "$@"
copy slurm "$@"

(cd "$scratch/local" && "$BIN/snakemake" figures/all reports/all --cores 2 --quiet all) || fail "the local run failed"
say "\$ snakemake figures/all reports/all --cores 2"
say "  $(results local | wc -l) files"

"$cluster" start >/dev/null
say "\$ sinfo"
sinfo | sed 's/^/  /' | tee -a "$excerpt"
disturb &
disturber=$!
say "\$ snakemake figures/all reports/all --profile profiles/slurm"
# The loopback cluster keeps no accounts, and its jobs are short: ask for their state more often than the plugin would.
(cd "$scratch/slurm" && "$here/$cluster" run "$BIN/snakemake" figures/all reports/all --profile profiles/slurm \
    --slurm-no-account --slurm-status-command squeue --slurm-init-seconds-before-status-checks 5 --latency-wait 5) \
    2>&1 | tee "$scratch/log" || fail "the run through Slurm failed"
wait "$disturber" || fail "no job was disturbed"
disturber=
grep 'Trying to restart' "$scratch/log" | sed 's/^/  /' | tee -a "$excerpt"
say "  $(results slurm | wc -l) files"
say "\$ squeue --states=all"
squeue --states=all --sort=i --format="%.5i %9P %.2N %9T %.7M  %k" |
    sed -e 's/_wildcards_/ /' -e 's/rule_//' -e 's/^/  /' | tee -a "$excerpt"

diff <(results local) <(results slurm) >"$scratch/difference" ||
    fail "$(grep -c '^>' "$scratch/difference") files differ: $(sed -n 's/^> [0-9a-f]* *//p' "$scratch/difference" | head -3 | xargs)"
say "\$ sha256sum of all files, local and Slurm"
say "  equal: $(results local | sha256sum | cut -c1-64)"

"$BIN/python" - docs/how_to/clusters.md "$excerpt" <<'PY'
import re
import sys
from pathlib import Path

page, excerpt = map(Path, sys.argv[1:])
text, log = page.read_text(encoding="utf-8"), excerpt.read_text(encoding="utf-8")
block = f"<!-- slurm -->\n```\n{log}```\n<!-- /slurm -->"
found, count = re.subn(r"<!-- slurm -->.*<!-- /slurm -->", lambda _: block, text, flags=re.DOTALL)
assert count == 1, f"{page} has no place for the log"
page.write_text(found, encoding="utf-8")
PY
