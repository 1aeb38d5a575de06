"""The scripts that start a run on several machines, with an `srun` and an `ssh` that stay on this one."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from c3l_hf.common.shards import Shards

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "recipes" / "launch"
WORDS = ["--config", "scenes", "--images", "a folder; rm 'x'", "--output_dir", "$HOME"]
# Each task of a step in turn, on its node. As SLURM's it makes KILL of TERM.
SRUN = """while [ "${1#--}" != "$1" ]; do echo "$1" >> "$TOLD/srun"; shift; done
trap 'kill -KILL $tasks; exit 137' TERM
for node in $(seq 0 $((SLURM_JOB_NUM_NODES - 1))); do SLURM_NODEID=$node "$@" & tasks="${tasks:-} $!"; done
for task in $tasks; do wait $task || exit $?; done"""
SCANCEL = """[ "$*" = "--signal=TERM 77" ] && kill -TERM $(cat "$TOLD"/*.pid)"""
SCONTROL = """if [ "$1" = show ]; then seq -f 127.0.0.%.0f $SLURM_JOB_NUM_NODES; else echo "$@" >> "$TOLD/scontrol"
fi"""
# As ssh does: what stands behind the machine's name is one line for a shell there, with an environment of its own.
SSH = """while [ "${1#-}" != "$1" ]; do [ "$1" = -o ] && shift; shift; done
echo "$1" >> "$TOLD/machines"; shift
cd / && exec env -u HF_TOKEN -u C3L_API_KEY -u C3L_NUM_IMAGES -u NCCL_DEBUG bash -c "$*" """
# Says what it was given, as one of several launchers.
ACCELERATE = """out=$(mktemp "$TOLD/launcher-XXXXXX"); printf '%s\\0' "$@" > "$out"; pwd > "$out.folder"
env > "$out.environment"
eval "${AS_A_LAUNCHER:-:}" """
PROGRAMS = {"srun": SRUN, "scontrol": SCONTROL, "scancel": SCANCEL, "ssh": SSH}
# A launcher of one process.
ALONE = f"""while [ "$1" != -m ]; do [ "${{1#--}}" = "$1" ] || export "${{1#--}}=$2"; shift; done
RANK=$machine_rank LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 WORLD_SIZE=$num_processes MASTER_ADDR=$main_process_ip \\
MASTER_PORT=$main_process_port exec {sys.executable} "$@" """


@pytest.fixture
def bench(tmp_path):
    """A folder for programs that go before all others, and an environment."""
    (tmp_path / "bin").mkdir()
    for name, script in {**PROGRAMS, "accelerate": ACCELERATE}.items():
        program(tmp_path, name, script)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "TOLD": str(tmp_path), "GPUS": "1"}
    environment |= {"SLURM_JOB_ID": "77", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
    return tmp_path, {**os.environ, **environment, "SLURM_SUBMIT_DIR": str(ROOT)}


def program(folder, name, script):
    file = folder / "bin" / name
    file.write_text(f"#!/usr/bin/env bash\n{script}\n")
    file.chmod(0o755)


def launched(folder):
    """What each launcher was given, as its own parser reads it, in the order of the machines."""
    files = [file for file in folder.glob("launcher-*") if not file.suffix]
    found = [launch_command_parser().parse_args(file.read_text().split("\0")[1:-1]) for file in files]
    return sorted(found, key=lambda given: given.machine_rank)


def check(launchers, port, first):
    assert [given.machine_rank for given in launchers] == [0, 1]
    for given in launchers:
        assert (given.num_machines, given.num_processes, given.main_process_port) == (2, 2 * 4, port)
        assert given.main_process_ip == first and given.module and given.training_script == "c3l_hf"
        assert (ROOT / given.config_file).is_file() and given.training_script_args == ["score", *WORDS]


@pytest.mark.parametrize("script", sorted(LAUNCH.iterdir()), ids=lambda path: path.name)
def test_scripts_are_read_by_bash_and_can_be_started(script):
    assert subprocess.run(["bash", "-n", script]).returncode == 0 and os.access(script, os.X_OK)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--shell=bash", "--severity=warning", script], check=True)


def test_slurm_starts_a_launcher_on_each_node(bench):
    folder, environment = bench
    del environment["GPUS"]
    environment |= {"SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "32", "COMMAND": "score"}
    done = subprocess.run(["bash", LAUNCH / "slurm.sbatch", *WORDS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check(launched(folder), 20077, "127.0.0.1")
    assert not (folder / "scontrol").exists()
    assert (folder / "srun").read_text().split() == ["--kill-on-bad-exit=1", "--cpus-per-task=32"]


def test_slurm_from_another_folder(bench):
    folder, environment = bench
    environment["SLURM_SUBMIT_DIR"] = str(folder)
    done = subprocess.run(["bash", LAUNCH / "slurm.sbatch", *WORDS], env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and f"ddp.yaml in {folder}; submit from" in done.stderr


def test_slurm_after_an_error(bench):
    folder, environment = bench
    environment["AS_A_LAUNCHER"] = "exit 3"
    done = subprocess.run(["bash", LAUNCH / "slurm.sbatch", *WORDS], env=environment, capture_output=True)
    assert done.returncode == 3 and not (folder / "scontrol").exists()  # it would fail again


@pytest.mark.parametrize(
    ("number", "restarts", "told", "says"),
    [
        (signal.SIGUSR1, "2", "requeue 77\n", "goes back into the queue"),
        (signal.SIGUSR1, "100", None, "submit it again, and it goes on"),
        (signal.SIGTERM, "2", None, ""),  # its user has cancelled it
    ],
)
def test_slurm_takes_a_job_away(bench, number, restarts, told, says):
    """All launchers are told to stop, are waited for, and the job is queued again, but not for ever."""
    folder, environment = bench
    waits = """trap 'sleep 0.2; touch "$out.stopped"; exit 143' TERM; echo $$ > "$out.pid"
    echo ready; while :; do sleep 0.05; done"""
    environment |= {"AS_A_LAUNCHER": waits, "SLURM_RESTART_COUNT": restarts}
    with subprocess.Popen(
        ["bash", LAUNCH / "slurm.sbatch", *WORDS], env=environment, stdout=subprocess.PIPE, text=True
    ) as job:
        assert [job.stdout.readline(), job.stdout.readline()] == ["ready\n", "ready\n"]
        job.send_signal(number)
        rest = job.stdout.read()
    assert job.returncode == 143 and len(list(folder.glob("launcher-*.stopped"))) == 2
    assert (folder / "scontrol").read_text() == told if told else not (folder / "scontrol").exists()
    assert says in rest and bool(rest) == bool(says)


def test_what_slurm_is_asked_for():
    asked = re.findall(r"^#SBATCH (--\S+)", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE)
    assert {"--requeue", "--open-mode=append", "--ntasks-per-node=1", "--signal=B:USR1@120"} <= set(asked)


def test_ssh_starts_a_launcher_on_each_machine(bench):
    folder, environment = bench
    (folder / "hosts.txt").write_text("# of the cluster\nme@gpu-1\n\ngpu-2\n")
    environment |= {"GPUS": "4", "COMMAND": "score", "HF_HOME": "/with a space", "ACTIVATE": "export ACTIVE=yes"}
    environment |= {"HF_TOKEN": "hf_secret", "C3L_API_KEY": "secret", "C3L_NUM_IMAGES": "20", "NCCL_DEBUG": "INFO"}
    words = [LAUNCH / "ssh.sh", folder / "hosts.txt", "--", *WORDS]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check(launched(folder), 29500, "gpu-1")
    assert sorted((folder / "machines").read_text().split()) == ["gpu-2", "me@gpu-1"]
    for file in folder.glob("launcher-*.environment"):
        text = file.read_text()
        assert {"HF_HOME=/with a space", "ACTIVE=yes", "C3L_NUM_IMAGES=20", "NCCL_DEBUG=INFO"} <= set(text.splitlines())
        assert "secret" not in text
    assert {file.read_text() for file in folder.glob("launcher-*.folder")} == {f"{ROOT}\n"}


def test_ssh_when_a_machine_fails(bench):
    """The others are stopped, and the code is its."""
    folder, environment = bench
    environment["AS_A_LAUNCHER"] = 'case "$*" in *"--machine_rank 1"*) exit 5 ;; esac; exec sleep 600'
    assert subprocess.run([LAUNCH / "ssh.sh", "gpu-1,gpu-2", "--", *WORDS], env=environment).returncode == 5


@pytest.mark.parametrize("hosts", ["-oProxyCommand=x,gpu-2", "gpu-1,,gpu-2", "gpu 1"])
def test_ssh_takes_machines_only(bench, hosts):
    folder, environment = bench
    done = subprocess.run([LAUNCH / "ssh.sh", hosts, "--", *WORDS], env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "is no machine" in done.stderr and not (folder / "machines").exists()


@pytest.mark.slow
def test_a_run_that_ssh_has_started_on_two(bench):
    """Of which each has a part of the images."""
    folder, environment = bench
    program(folder, "accelerate", ALONE)
    environment |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    environment |= {"MASTER_PORT": str(free_port()), "ACCELERATE_USE_CPU": "true"}
    words = ["--config", "scenes", "--num_images", "3", "--pairs_per_image", "2", "--stages", "generate"]
    words += ["--output_dir", folder / "out"]
    done = subprocess.run([LAUNCH / "ssh.sh", "a,b", "--", *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    shards = Shards(folder / "out" / "stages" / "1_generate")
    assert len(shards) == 2 and shards.num_rows == 6


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
