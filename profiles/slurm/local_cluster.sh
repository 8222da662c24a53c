#!/usr/bin/env bash
# A Slurm cluster of two nodes on this machine, for trying profiles/slurm without a cluster at hand.
#
#     profiles/slurm/local_cluster.sh start     sets it up from nothing; nothing happens if it runs
#     profiles/slurm/local_cluster.sh status    nodes and jobs
#     profiles/slurm/local_cluster.sh run CMD   runs a command that finds this cluster
#     profiles/slurm/local_cluster.sh stop      ends its daemons and removes its folder
#
# A controller and two node daemons of Slurm, and a munge daemon of their own, listen on the loopback address only and keep
# everything in one folder (CLUSTER_DIR), so that neither root nor a configured Slurm is needed or touched. Each node offers one
# core. Debian and Ubuntu: apt-get install slurm-wlm munge.
set -euo pipefail

CLUSTER_DIR=${CLUSTER_DIR:-${TMPDIR:-/tmp}/biology-slurm-$(id -u)}
PORT=${CLUSTER_PORT:-17817}     # the controller's; the nodes listen on the next two
export SLURM_CONF=$CLUSTER_DIR/slurm.conf
PATH=$PATH:/usr/sbin:/sbin

fail() { echo "error: $1" >&2; exit 1; }

# A daemon counts as ours if its process id is in our folder and its command line names the folder.
alive() { [ -f "$1" ] && tr '\0' ' ' 2>/dev/null <"/proc/$(<"$1")/cmdline" | grep -qF "$CLUSTER_DIR"; }
end() { if alive "$1"; then kill "$(<"$1")"; fi; }

wait_for() {    # wait_for WHAT COMMAND...: up to half a minute
    local what=$1 tries=60
    shift
    until "$@"; do
        [ $((tries -= 1)) -gt 0 ] || fail "$what; see the logs in $CLUSTER_DIR"
        sleep 0.5
    done
}
two_idle() { [ "$(sinfo --noheader --Node --partition=cpu --format=%T 2>/dev/null | grep -c '^idle')" = 2 ]; }
all_gone() { for file in "$CLUSTER_DIR"/*.pid; do ! alive "$file" || return 1; done; }

configure() {
    mkdir -p "$CLUSTER_DIR"/{bin,state,n1,n2}
    chmod 755 "$CLUSTER_DIR"
    [ -f "$CLUSTER_DIR/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$CLUSTER_DIR/munge.key")
    cat >"$SLURM_CONF" <<CONF
ClusterName=loopback
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$PORT
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$CLUSTER_DIR/munge.socket
CredType=cred/munge
StateSaveLocation=$CLUSTER_DIR/state
SlurmdSpoolDir=$CLUSTER_DIR/%n
SlurmctldPidFile=$CLUSTER_DIR/slurmctld.pid
SlurmdPidFile=$CLUSTER_DIR/slurmd-%n.pid
SlurmctldLogFile=$CLUSTER_DIR/slurmctld.log
SlurmdLogFile=$CLUSTER_DIR/slurmd-%n.log
# without control groups, which a container or an ordinary user may not have
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=86400
KillWait=5
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((PORT + 1)) CPUs=1 RealMemory=8000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((PORT + 2)) CPUs=1 RealMemory=8000
# the names of profiles/slurm/partitions.yaml
PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=n1,n2 MaxTime=INFINITE State=UP
CONF
    # Snakemake's plugin takes every SLURM_ variable away from the srun within a job, this one too.
    printf '#!/bin/sh\nSLURM_CONF=%q exec %q "$@"\n' "$SLURM_CONF" "$(command -v srun)" >"$CLUSTER_DIR/bin/srun.new"
    chmod 755 "$CLUSTER_DIR/bin/srun.new"
    mv "$CLUSTER_DIR/bin/srun.new" "$CLUSTER_DIR/bin/srun"
}

start() {
    local program
    for program in munged slurmctld slurmd sinfo; do
        command -v "$program" >/dev/null || fail "there is no $program here: apt-get install slurm-wlm munge"
    done
    configure
    # --force: munge warns of folders that others may write to, such as the one for temporary files
    alive "$CLUSTER_DIR/munged.pid" || munged --force --num-threads=2 \
        --key-file="$CLUSTER_DIR/munge.key" --socket="$CLUSTER_DIR/munge.socket" --pid-file="$CLUSTER_DIR/munged.pid" \
        --log-file="$CLUSTER_DIR/munged.log" --seed-file="$CLUSTER_DIR/munge.seed" 2>>"$CLUSTER_DIR/munged.log"
    alive "$CLUSTER_DIR/slurmctld.pid" || slurmctld -f "$SLURM_CONF"
    for node in n1 n2; do
        alive "$CLUSTER_DIR/slurmd-$node.pid" || slurmd -f "$SLURM_CONF" -N "$node"
    done
    wait_for "the nodes did not become idle" two_idle
    echo "Slurm runs here: 2 nodes of one core each. Use it by: $0 run COMMAND"
}

stop() {
    [ -d "$CLUSTER_DIR" ] || { echo "No cluster in $CLUSTER_DIR."; return; }
    [ -f "$SLURM_CONF" ] || fail "$CLUSTER_DIR is not a cluster made by this script; it is left as it is"
    alive "$CLUSTER_DIR/slurmctld.pid" && scancel --user="$(id -un)" --state=PENDING,RUNNING 2>/dev/null || true
    for daemon in slurmd-n1 slurmd-n2 slurmctld munged; do end "$CLUSTER_DIR/$daemon.pid"; done
    wait_for "a daemon did not end" all_gone
    rm -rf "$CLUSTER_DIR"
    echo "The cluster is gone."
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    status) sinfo --Node --format="%N %T" && squeue --format="%i %k %T %N" ;;
    run) shift && PATH=$CLUSTER_DIR/bin:$PATH "$@" ;;
    *) sed -n 's/^#     //p' "$0" && exit 2 ;;
esac
