"""GPUs for which a run can be planned: what their data sheets promise."""

import re
from dataclasses import dataclass, replace

from c3l_hf.common.errors import RunError
from c3l_hf.common.names import nearest

__all__ = ["ACCELERATORS", "HERE", "Accelerator", "Hardware", "read_hardware"]

# In place of a name: whatever this machine has, which is then measured.
HERE = "here"


@dataclass(frozen=True)
class Accelerator:
    """One device.

    Attributes:
        name: As its maker calls it.
        flops: Dense bfloat16 matrix products with sums in float32, in operations a second (two to a multiplication with
            addition). Data sheets print twice as much "with sparsity", which no model here has.
        memory: Bytes.
        bandwidth: Of the memory, in bytes a second.
        source: Where the numbers are from.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    source: str


def _accelerator(name: str, teraflops: float, gigabytes: float, gigabytes_a_second: float, source: str) -> Accelerator:
    return Accelerator(name, teraflops * 1e12, gigabytes * 1e9, gigabytes_a_second * 1e9, source)


# What a plan calls them → what they are.
ACCELERATORS = {
    "a10": _accelerator("NVIDIA A10", 125, 24, 600, "NVIDIA A10 data sheet, 2021"),
    "a100-40gb": _accelerator("NVIDIA A100 40GB", 312, 40, 1555, "NVIDIA A100 data sheet, 2020"),
    "a100": _accelerator("NVIDIA A100 80GB SXM", 312, 80, 2039, "NVIDIA A100 80GB data sheet, 2021"),
    "l4": _accelerator("NVIDIA L4", 121, 24, 300, "NVIDIA L4 data sheet, 2023 (242 with sparsity)"),
    "l40s": _accelerator("NVIDIA L40S", 362, 48, 864, "NVIDIA L40S data sheet, 2023"),
    "h100": _accelerator("NVIDIA H100 SXM", 989, 80, 3350, "NVIDIA H100 data sheet, 2023 (1,979 with sparsity)"),
    "h200": _accelerator("NVIDIA H200 SXM", 989, 141, 4800, "NVIDIA H200 data sheet, 2024 (1,979 with sparsity)"),
}
# Devices of one machine: of those that are built for eight. What each machine has once (the model's files, pictures
# that are fetched) is counted by it.
_IN_ONE_MACHINE = 8


@dataclass(frozen=True)
class Hardware:
    """Devices of one kind.

    Attributes:
        accelerator: The kind; None for what this machine has, if no data sheet is known.
        devices: How many, each with a process of its own.
        here: Whether they are like the one of this machine, and a short run measures it.
    """

    accelerator: Accelerator | None
    devices: int
    here: bool = False

    @property
    def machines(self) -> int:
        """Machines, of up to eight devices."""
        return -(-self.devices // _IN_ONE_MACHINE)

    def __str__(self) -> str:
        name = self.accelerator.name if self.accelerator else "this machine"
        return f"{self.devices:,} x {name}"

    def known_as(self, device_name: str | None) -> "Hardware":
        """The same, with the data sheet of a device by the name that its driver gives it, if it is in the table."""
        words = re.split(r"[\s-]+", (device_name or "").lower())
        found = [one for name, one in ACCELERATORS.items() if name.partition("-")[0] in words]
        if "40gb" in words:
            found = [one for one in found if "40GB" in one.name]
        elif "a100" in words:
            found = [one for one in found if "40GB" not in one.name]
        # PCIe cards of the same name are slower.
        return replace(self, accelerator=found[0]) if len(found) == 1 and "pcie" not in words else self


def read_hardware(text: str) -> Hardware:
    """Reads "h100", "8xH100", "here" or "8xhere".

    Raises:
        RunError: If it is none of them.
    """
    match = re.fullmatch(r"(?:(\d{1,6})\s*x\s*)?([a-z][a-z0-9-]*)", text.strip().lower())
    count, name = (1, "") if match is None else (int(match[1] or 1), match[2])
    if count < 1 or (name != HERE and name not in ACCELERATORS):
        names = [*ACCELERATORS, HERE]
        raise RunError(
            f"plan is {text!r}; it must be a GPU, as 8xh100: {', '.join(ACCELERATORS)}; or {HERE}, which measures this "
            f"machine{nearest(name, names)}"
        )
    return Hardware(None if name == HERE else ACCELERATORS[name], count, name == HERE)
