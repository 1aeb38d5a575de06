"""Commands that end before their time: within seconds, in one line, with nothing left behind."""

import os
import signal
import subprocess
import sys

import pytest

from c3l_hf.cli import interruption, main
from c3l_hf.cli.command import CallOptions, Command
from c3l_hf.cli.interruption import Interruption, rank

# A command whose work is `BODY`; what it prints first says that it has begun.
SCRIPT = """
import atexit, ctypes, os, signal, subprocess, sys, threading, time
from c3l_hf.cli import dispatch, interruption
from c3l_hf.cli.command import CallOptions, Command
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

def begun():
    print("begun", flush=True)

def call(_):
    BODY

made = Command("Does it.", (), (CallOptions,), call, resumes=True)
dispatch._load = lambda name: made
BEFORE
dispatch.entry(["select"])
"""
GOES_ON = "c3l select: interrupted; the same command goes on where it stopped\n"
SHORT = "interruption._GRACE = 0.2"


def under_nohup(ignores):
    """Before a process begins: whether it ignores SIGHUP, whatever the one that started the tests does."""
    return lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN if ignores else signal.SIG_DFL)


def started(body, before="", nohup=False, **options):
    script = SCRIPT.replace("BODY", body.strip().replace("\n", "\n    ")).replace("BEFORE", before)
    command = [sys.executable, "-c", script]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=under_nohup(nohup), **options
    )


def ended(process, *signals):
    """Exit code and what stands in standard error, after a signal for each line that the process prints."""
    with process:
        for number in signals:
            process.stdout.readline()
            process.send_signal(number)
        rest, errors = process.communicate()  # until whoever has its output has ended, too
    return process.returncode, errors, rest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_in_one_line(number):
    code, errors, rest = ended(started("try:\n    begun(); time.sleep(99)\nfinally:\n    print('cleaned up')"), number)
    assert (code, errors, rest) == (128 + number, GOES_ON, "cleaned up\n")


BLOCKED = """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
lock = threading.Lock(); lock.acquire(); begun(); lock.acquire()
"""
SWALLOWED = """
begun()
while True:
    try: time.sleep(99)
    except BaseException: pass
"""
IN_A_DESTRUCTOR = """
class Slow:
    def __del__(self): begun(); time.sleep(99)
Slow()
time.sleep(99)
"""
TRANSLATED = """
try: begun(); time.sleep(99)
except KeyboardInterrupt: raise RuntimeError("DataLoader worker exited unexpectedly")
"""
# As a server that is started for a run: in a session of its own, and deaf to the first request.
LEFT_BEHIND = """
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('begun', flush=True); time.sleep(30)"
subprocess.Popen([sys.executable, "-c", f"{child}; print('outlived')"], start_new_session=True)
while True:
    try: time.sleep(99)
    except BaseException: pass
"""


@pytest.mark.parametrize(
    "body",
    [BLOCKED, SWALLOWED, IN_A_DESTRUCTOR, TRANSLATED, LEFT_BEHIND],
    ids=["blocked", "swallowed", "destructor", "translated", "left behind"],
)
def test_whatever_the_main_thread_does(body):
    assert ended(started(body, SHORT), signal.SIGTERM) == (143, GOES_ON, "")


def test_a_second_signal_ends_at_once():
    body = SWALLOWED.replace("pass", "begun()")
    process = started(body, "interruption._GRACE, interruption._HANDED_ON = 1e6, 0.0")
    assert ended(process, signal.SIGINT, signal.SIGINT)[:2] == (130, GOES_ON)


def test_while_modules_are_loaded():
    before = "def load(name): begun(); time.sleep(99)\ndispatch._load = load"
    code, errors, _ = ended(started("pass", before), signal.SIGINT)
    assert (code, errors) == (130, "c3l select: interrupted; nothing has been done yet\n")


def test_while_python_ends():
    """The command has done its work: there is nothing to tell, and what waits at the end keeps nobody from ending."""
    thread = "threading.Thread(target=lambda: (time.sleep(0.5), begun(), time.sleep(99))).start()"
    assert ended(started(thread, SHORT), signal.SIGTERM)[:2] == (143, GOES_ON)


def test_only_one_of_several_processes_tells():
    environment = {**os.environ, "RANK": "1"}
    code, errors, _ = ended(started("begun(); time.sleep(99)", env=environment), signal.SIGTERM)
    assert (code, errors) == (143, "")


def test_a_forked_process_has_its_signals_for_itself():
    body = """
child = os.fork()
if not child: time.sleep(99)
os.kill(child, signal.SIGTERM)
print(os.waitpid(child, 0)[1])
time.sleep(3 * interruption._LOOK)
"""
    assert ended(started(body)) == (0, "", "15\n")


def test_what_was_ignored_stays_ignored():
    """As SIGHUP under nohup."""
    process = started("os.kill(os.getpid(), signal.SIGHUP)\nprint('on')", nohup=True)
    assert ended(process) == (0, "", "on\n")


def test_the_end_of_a_launcher_ends_its_process():
    """`accelerate launch` hands no signal on to a single process."""
    script = SCRIPT.replace("BODY", "begun(); time.sleep(99)").replace("BEFORE", "")
    launcher = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]]).wait()"
    process = subprocess.Popen(
        [sys.executable, "-c", launcher, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ACCELERATE_MIXED_PRECISION": "no"},
    )
    assert ended(process, signal.SIGTERM)[:2] == (-signal.SIGTERM, GOES_ON)


def test_from_python_no_signal_is_taken(monkeypatch):
    made = Command("Does it.", (), (CallOptions,), lambda _: None)
    monkeypatch.setattr("c3l_hf.cli.dispatch._load", lambda name: made)
    before = [signal.getsignal(number) for number in interruption._SIGNALS]
    assert main(["select"]) == 0
    assert [signal.getsignal(number) for number in interruption._SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_number_is_known_by_what_started_the_process(monkeypatch):
    for name in interruption._RANKS:
        monkeypatch.delenv(name, raising=False)
    assert rank() == 0
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    assert rank() == 3
    monkeypatch.setenv("RANK", "1")
    assert rank() == 1


def test_an_end_that_another_process_asks_for_is_told_there(monkeypatch, capfd):
    sent = []
    monkeypatch.setattr(os, "kill", lambda *call: sent.append(call))
    ending = Interruption()
    ending.end("", 1)
    ending.tell("c3l select: more")
    assert sent == [(os.getpid(), signal.SIGTERM)] and ending.code == 1 and capfd.readouterr().err == ""
    ending = Interruption()
    ending.end("c3l select: process 1 has died", 1)
    ending.tell()
    assert capfd.readouterr().err == "c3l select: process 1 has died\n"
