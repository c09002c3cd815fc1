"""A kind of device, as its data sheet has it: a TOML file here, or the user's own. Imports no torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from dist_mtl.config import Positive, Section
from dist_mtl.config.file import read_toml, readable
from dist_mtl.errors import ConfigError

GB = 1e9
FOLDER = Path(__file__).parent / "profiles"
Amount = Annotated[float, Field(gt=0)]
Part = Annotated[float, Field(gt=0, le=1)]
# Of a rank's memory; the rest is for what allocators lose. TorchRec's planner keeps 15 % of the HBM free itself.
USABLE = {"hbm": 0.85, "host": 0.9}


class Achieved(Section):
    """The part of each peak that this work reaches."""

    memory: Part
    links: Part
    flops: Part


class Profile(Section):
    """One device and its share of the node. GB and TFLOP are powers of ten; rates are GB/s, one way."""

    device: Literal["cuda", "cpu"]
    gpus_per_node: Positive  # the default of --gpus; on CPU: ranks
    hbm_gb: Amount | None = None  # none: no memory of its own, tables live in the host's
    hbm_gbps: Amount | None = None
    host_gb: Amount
    host_gbps: Amount
    link_gbps: Amount  # between the host's memory and the device
    nvlink_gbps: Amount  # to ranks of the same node
    network_gbps: Amount  # to ranks of other nodes
    tflops_fp32: Amount
    tflops_tf32: Amount
    tflops_bf16: Amount
    collective_us: Amount  # that a collective takes whatever its bytes
    process_device_gb: Annotated[float, Field(ge=0)] = 0.0  # before the first tensor of the model
    process_host_gb: Amount
    buffer_copies: Annotated[
        float, Field(ge=1)
    ]  # memory of what comes and goes in a step, over its largest sum at once
    achieved: Achieved
    sources: dict[str, str]

    @property
    def memory_gbps(self) -> float:
        """Of the memory that tables live in unless they are told otherwise."""
        return self.hbm_gbps if self.device == "cuda" else self.host_gbps


@dataclass(frozen=True)
class Cluster:
    """`nodes` times `gpus` devices, each a rank."""

    name: str
    profile: Profile
    nodes: int
    gpus: int

    @property
    def ranks(self) -> int:
        return self.nodes * self.gpus

    @property
    def capacity(self) -> dict[str, float]:
        """Bytes of a rank that a plan may fill: `hbm` (where there is any) and `host`."""
        sizes = {"hbm": self.profile.hbm_gb if self.profile.device == "cuda" else None, "host": self.profile.host_gb}
        return {place: size * GB * USABLE[place] for place, size in sizes.items() if size is not None}

    @property
    def told(self) -> str:
        unit = "GPUs" if self.profile.device == "cuda" else "ranks"
        return f"{self.nodes} x {self.gpus} {unit} ({self.name})"


def known() -> tuple[str, ...]:
    """The devices that need no file."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load_profile(
    name: str | None, path: str | None, hbm_gb: float | None, host_gb: float | None
) -> tuple[str, Profile]:
    """The profile `name`, or the one in the file `path`, with the two sizes replaced where they are given.

    Raises ConfigError: no such device, a file that is no profile, HBM for a device that has none.
    """
    if path is None and name not in known():
        raise ConfigError(f"--device {name}: there is no such profile; use {', '.join(known())}, or --profile FILE")
    source = FOLDER / f"{name}.toml" if path is None else Path(path)
    given = {key: value for key, value in (("hbm_gb", hbm_gb), ("host_gb", host_gb)) if value is not None}
    try:
        profile = Profile.model_validate_json(json.dumps(read_toml(source) | given), strict=True)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc'])) or 'the whole'}: {item['msg']}" for item in error.errors()]
        raise ConfigError("\n".join(f"{source.name}: {readable(line)}" for line in lines)) from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{source.name}: {readable(str(error))}") from None
    if profile.device == "cuda" and (profile.hbm_gb is None or profile.hbm_gbps is None):
        raise ConfigError(f"{source.name}: device = 'cuda' needs hbm_gb and hbm_gbps")
    if profile.device == "cpu" and profile.hbm_gb is not None:
        raise ConfigError(f"{source.name}: device = 'cpu' has no memory of its own; use host_gb, or --host-gb")
    return source.stem, profile
