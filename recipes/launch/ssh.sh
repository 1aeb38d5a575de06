#!/usr/bin/env bash
# A run over several machines that ssh reaches without a password: one launcher a machine, one process a GPU. The same
# command again goes on where it stopped.
#
#   recipes/launch/ssh.sh gpu-1,gpu-2 -- --config llava15_7b --images my_pictures/ --output_dir /shared/runs/mine
#   recipes/launch/ssh.sh hosts.txt   -- ...      a file with a machine in each line
#
# The words after -- are those of `c3l run`; those of another command with COMMAND=score (generate, sft, train,
# evaluate). From the environment:
#
#   GPUS                 GPUs of a machine (8)
#   ACCELERATE_CONFIG    recipes/accelerate_configs/ddp.yaml; fsdp2.yaml or deepspeed_zero3.yaml share out the weights
#   ACTIVATE             what makes `accelerate` known on a machine, as "source .venv/bin/activate"
#   MASTER_ADDR          what the others call the first machine, if not as ssh does
#   MASTER_PORT          29500
#   HF_HOME, HF_DATASETS_CACHE, HF_HUB_OFFLINE, GLOO_SOCKET_IFNAME, OMP_NUM_THREADS, NCCL_* and C3L_*
#                        go to every machine, if they are set; C3L_API_KEY does not
#
# This folder, output_dir and HF_DATASETS_CACHE must be the same on all machines: on a disk that they share. Keys do not go
# along; log in once on each machine (hf auth login).
set -u

[ $# -ge 2 ] && [ "$2" = "--" ] || { sed -n '2,/^set/p' "$0" | grep '^#'; exit 2; }
if [ -f "$1" ]; then mapfile -t hosts < <(grep -v '^[[:space:]]*\(#\|$\)' "$1"); else IFS=, read -r -a hosts <<<"$1"; fi
shift 2

# A name that begins with a hyphen would be an option of ssh.
for host in "${hosts[@]}"; do
    case "$host" in -* | *[[:space:]]* | "") echo "ssh.sh: '$host' is no machine" >&2; exit 2 ;; esac
done

root=$(cd "$(dirname "$0")/../.." && pwd)
gpus=${GPUS:-8}
config=${ACCELERATE_CONFIG:-recipes/accelerate_configs/ddp.yaml}
first=${MASTER_ADDR:-${hosts[0]#*@}}

environment=""
# What a machine is told can be read by all who are on it: no keys.
for name in $(compgen -e | grep -Ex 'HF_(HOME|DATASETS_CACHE|HUB_OFFLINE)|GLOO_SOCKET_IFNAME|OMP_NUM_THREADS|(NCCL|C3L)_.*' |
    grep -v KEY); do
    [ -n "${!name:-}" ] && environment+="$name=$(printf %q "${!name}") "
done

steps=()
stop() {
    for step in ${steps[@]+"${steps[@]}"}; do kill -TERM "$step" 2>/dev/null; done
}
trap stop TERM INT EXIT

# Each word quoted: ssh gives one line to a shell there. -tt: what runs there ends when the connection does, and that is
# lost after 10 minutes without an answer, as a process is (C3L_PATIENCE).
words=$(printf '%q ' "${COMMAND:-run}" "$@")
for rank in "${!hosts[@]}"; do
    ssh -tt -o BatchMode=yes -o ServerAliveInterval=60 -o ServerAliveCountMax=10 "${hosts[$rank]}" "cd $(printf %q "$root") && ${ACTIVATE:+$ACTIVATE && }exec env $environment\
        accelerate launch --config_file $(printf %q "$config") --num_machines ${#hosts[@]} \
        --num_processes $((${#hosts[@]} * gpus)) --machine_rank $rank --main_process_ip $(printf %q "$first") \
        --main_process_port ${MASTER_PORT:-29500} -m c3l_hf $words" </dev/null &
    steps+=($!)
done

# The first machine that fails ends the others: they would wait for it.
code=0
for _ in "${hosts[@]}"; do
    wait -n
    ended=$?
    if [ "$ended" != 0 ] && [ "$code" = 0 ]; then
        code=$ended
        stop
    fi
done
wait
exit "$code"
