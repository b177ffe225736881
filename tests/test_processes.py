"""What operators do to the process around them: forks, signals, how threads wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time

import pytest
from command_line import ran

pytestmark = pytest.mark.usefixtures("native")

# Longer than any of these takes; a process that hangs is ended.
PATIENCE = 120
# Not the checkout, which would hide the installed package and its compiled operators.
AWAY = tempfile.gettempdir()

INPUTS = """
import os, sys
import torch
import plasticine

torch.set_num_threads(2)
generator = torch.Generator().manual_seed(0)

def leaf(*shape, scale=1.0):
    return torch.randn(shape, generator=generator).mul_(scale).requires_grad_()

image, field = leaf(1, 2, 64, 64, 32), leaf(1, 3, 64, 64, 32, scale=0.1)
other = leaf(1, 3, 64, 64, 32)
"""

OPERATORS = {
    **{
        f"warp {mode}": f"plasticine.warp(image, field, mode={mode!r})"
        for mode in ("linear", "nearest", "cubic", "bspline")
    },
    "splat": "plasticine.splat(image, field)",
    "spline_coefficients": "plasticine.spline_coefficients(image)",
    "gaussian_smooth": "plasticine.gaussian_smooth(image, 1.5)",
    "compose": "plasticine.compose(field, other)",
    "exponential": "plasticine.exponential(field, steps=4)",
    "warp_exponential": "plasticine.warp_exponential(image, field, steps=4)",
    "invert": "plasticine.invert(field).displacement",
    "jacobian_determinant": "plasticine.jacobian_determinant(field)",
}

FORKED = """
def gradients(result, inputs):
    return torch.autograd.grad(result, inputs, result.detach(), allow_unused=True)

def run():
    found = []
    for call in {calls!r}:
        result = eval(call)
        found += [result, *gradients(result, (image, field, other))]
    found.append(plasticine.folding(field).minimum)
    # Compared as bytes: PyTorch's own operations would wait for their threads for ever.
    return [x.detach().numpy().tobytes() for x in found if x is not None]

expected = run()
process = os.fork()
if process == 0:
    os._exit(0 if run() == expected else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""

LOADED = """
import multiprocessing

class Warped(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        with torch.no_grad():
            return plasticine.warp(image, field + index)[0]

with torch.no_grad():
    expected = [plasticine.warp(image, field + index) for index in range(4)]
loader = torch.utils.data.DataLoader(
    Warped(), num_workers=2, multiprocessing_context=multiprocessing.get_context("fork")
)
assert all(map(torch.equal, loader, expected))
"""

# A field that folds everywhere, and more iterations than anyone will wait for.
FOLDING = """
field = torch.randn(1, 3, 96, 96, 96, generator=generator) * 20
call = lambda: plasticine.invert(field, tolerance=0.0, iterations={iterations})
"""
LONG = """
field = torch.randn(4, 3, 96, 96, 96, generator=generator)
call = lambda: plasticine.exponential(field, steps=1000)
"""
INTERRUPTED = """
torch.set_num_threads({threads})
print("begun", flush=True)
try:
    call()
except KeyboardInterrupt:
    # What follows finds everything in order.
    same = torch.equal(plasticine.compose(other, other), plasticine.compose(other, other))
    sys.exit(42 if same else 3)
"""


def start(*parts: str, **variables: str) -> subprocess.Popen[str]:
    """Runs Python code in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join(map(textwrap.dedent, parts))],
        cwd=AWAY,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> int:
    """Its exit status; ends it with its children where it hangs."""
    try:
        _, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        pytest.fail("it hangs")
    print(errors, file=sys.stderr)
    return process.returncode


@pytest.mark.parametrize("calls", [list(OPERATORS.values())], ids=["every operator"])
def test_a_forked_child_goes_on(calls):
    assert finish(start(INPUTS, FORKED.format(calls=calls))) == 0


def test_forked_workers_of_a_loader(tmp_path):
    assert finish(start(INPUTS, LOADED)) == 0


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "work",
    [FOLDING.format(iterations=1000), FOLDING.format(iterations=10**9), LONG],
    ids=["invert", "invert one block", "exponential"],
)
def test_a_long_call_heeds_an_interruption(work, threads):
    process = start(INPUTS, work, INTERRUPTED.format(threads=threads))
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.5)  # in the middle of the call
    process.send_signal(signal.SIGINT)
    assert finish(process) == 42


WAITING = """
import os, sys
import torch  # once, for all

for program, given in (("plasticine", None), ("plasticine", "active"), ("train.py", None)):
    if (child := os.fork()) == 0:
        sys.argv = ["/somewhere/bin/" + program]
        if given is not None:
            os.environ["OMP_WAIT_POLICY"] = given
        import plasticine
        print(os.environ.get("OMP_WAIT_POLICY"), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_only_the_command_line_waits_passively():
    result = ran(sys.executable, "-c", WAITING, folder=AWAY, without="OMP_WAIT_POLICY")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["passive", "active", "None"]


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP says how it waits")
@pytest.mark.parametrize(("module", "spins"), [("plasticine", False), ("plasticine.info", True)])
def test_a_module_that_is_run_waits_as_it_should(module, spins):
    """What the runtime itself took from the environment: it was set early enough."""
    command = (sys.executable, "-m", module, "--version")
    dropped = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    result = ran(*command, folder=AWAY, without=dropped, OMP_DISPLAY_ENV="VERBOSE")
    assert result.returncode == 0, result.stderr
    lines = [line.strip() for line in result.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    assert lines
    assert all((line != "GOMP_SPINCOUNT = '0'") == spins for line in lines), lines


DAEMON = """
import sys, threading, time
import torch, plasticine
torch.set_num_threads(1)
u = 30 * torch.randn(1, 3, 48, 48, 48, generator=torch.Generator().manual_seed(0))
options = {"iterations": 10**8, "tolerance": 1e-12}
threading.Thread(target=plasticine.invert, args=(u,), kwargs=options, daemon=True).start()
time.sleep(1)
sys.exit(3)
"""


def test_a_program_ends_while_another_thread_is_in_a_call():
    run = ran(sys.executable, "-c", DAEMON, folder=AWAY, timeout=60)
    assert run.returncode == 3, run.stderr
