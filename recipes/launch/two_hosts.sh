#!/usr/bin/env bash
# Two machines in one: network namespaces with a virtual link between them, each with its own name and its own view of
# the disks. To try what a run does over two machines, and when one of them is lost. Needs root; changes nothing that
# stays.
#
#   sudo recipes/launch/two_hosts.sh [option ...] -- c3l_hf's words, as: run --config scenes --output_dir runs/two
#
#   --private FOLDER    a folder that each machine has for itself (empty, in memory); may be given several times
#   --on_b "COMMAND"    what machine b does before it starts, as a change of a file in its private folder
#   --when PATTERN      --lose happens when there is such a file or folder, as 'runs/two/stages/2_score'
#   --lose kill|link    b's processes are killed, or the link is taken down
#   --patience SECONDS  how long both may take to end after that (default 180)
#
# Ends with 0 if both did, else with 1, and says how long each took to end after a loss.
set -u

private=() on_b=":" when="" lose="" patience=180
while [ $# -gt 0 ]; do
    case "$1" in
        --private) private+=("$2"); shift 2 ;;
        --on_b) on_b="$2"; shift 2 ;;
        --when) when="$2"; shift 2 ;;
        --lose) lose="$2"; shift 2 ;;
        --patience) patience="$2"; shift 2 ;;
        --) shift; break ;;
        *) echo "two_hosts.sh: unknown option $1" >&2; exit 2 ;;
    esac
done
[ $# -gt 0 ] || { sed -n '2,/^set/p' "$0" | grep '^#'; exit 2; }

root=$(cd "$(dirname "$0")/../.." && pwd)
net=c3l$$
logs=$(mktemp -d)
declare -A pid address=([a]=10.77.0.1 [b]=10.77.0.2) rank=([a]=0 [b]=1)

kill_group() { [ -n "${pid[$1]:-}" ] && kill -KILL -- "-${pid[$1]}" 2>/dev/null; }
clean_up() {
    kill_group a
    kill_group b
    ip netns del "$net-a" 2>/dev/null
    ip netns del "$net-b" 2>/dev/null
    rm -rf "$logs"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

ip netns add "$net-a" && ip netns add "$net-b" || exit 2
ip -n "$net-a" link add link0 type veth peer name link0 netns "$net-b" || exit 2
for host in a b; do
    ip -n "$net-$host" addr add "${address[$host]}/24" dev link0
    ip -n "$net-$host" link set lo up
    ip -n "$net-$host" link set link0 up
done

start() { # host, words ...
    local host=$1 own=""
    shift
    for folder in ${private[@]+"${private[@]}"}; do own+="mkdir -p '$folder' && mount -t tmpfs private '$folder' && "; done
    [ "$host" = b ] && own+="{ $on_b; } && "
    # GLOO_SOCKET_IFNAME: machine names cannot be looked up here, and the link has to be named. As in some clusters.
    # --kill-child: with the outermost process all of a machine's end, as when its power fails.
    setsid ip netns exec "$net-$host" unshare --mount --uts --pid --fork --kill-child --mount-proc bash -c "hostname host-$host && $own"'exec "$@"' bash \
        env GLOO_SOCKET_IFNAME=link0 OMP_NUM_THREADS=1 \
        "${PYTHON:-python}" -m accelerate.commands.launch --multi_gpu --mixed_precision no --dynamo_backend no \
        --num_machines 2 --num_processes "${PROCESSES:-2}" --machine_rank "${rank[$host]}" \
        --main_process_ip "${address[a]}" --main_process_port 29500 --same_network --rdzv_backend static -m c3l_hf "$@" \
        >"$logs/$host" 2>&1 &
    pid[$host]=$!
}

cd "$root" || exit 2
start a "$@"
start b "$@"
if [ -n "$lose" ]; then
    until compgen -G "$when" >/dev/null || ! kill -0 "${pid[a]}" 2>/dev/null; do sleep 0.1; done
    if [ "$lose" = link ]; then ip -n "$net-b" link set link0 down; else kill_group b; fi
    lost=$(date +%s)
    for host in a b; do
        while kill -0 "${pid[$host]}" 2>/dev/null && [ $(($(date +%s) - lost)) -lt "$patience" ]; do sleep 0.5; done
        if kill -0 "${pid[$host]}" 2>/dev/null; then echo "== $host still runs after $patience s"; kill_group "$host"
        else echo "== $host ended within $(($(date +%s) - lost)) s"; fi
    done
fi
code=0
for host in a b; do
    wait "${pid[$host]}"
    ended=$?
    echo "== $host ended with $ended"
    tail -n "${LINES_SHOWN:-40}" "$logs/$host"
    [ $ended = 0 ] || code=1
done
exit $code
