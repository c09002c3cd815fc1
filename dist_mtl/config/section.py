"""What the sections of a configuration are made of: numbers with their bounds, and the strict base class."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dist_mtl.observability.run_dir import path_problem

# No count here needs more, and up to 2**43 rows of a table have initial values of their own (model/embedding.py).
MAX_COUNT = 2**43
Positive = Annotated[int, Field(gt=0, le=MAX_COUNT)]
Population = Annotated[int, Field(gt=0, le=2**31)]  # of the sample logs, which hold arrays as long in memory
Dim = Annotated[int, Field(gt=0, le=2**16, multiple_of=4)]  # a multiple of 4: FBGEMM's vector width
Seconds = Annotated[int, Field(gt=0, le=10**6)]  # 11 days; a C++ duration overflows beyond 292 years
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # int64
# Of a network: what a line of a configuration can ask for must not take the memory before anyone looks at its sizes.
Width = Annotated[int, Field(gt=0, le=2**16)]  # units of a layer; two such layers have 17 GB between them
Depth = Annotated[int, Field(gt=0, le=64)]  # layers or levels on top of each other
Count = Annotated[int, Field(gt=0, le=1024)]  # experts side by side
Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=64)]
Weight = Annotated[float, Field(ge=0, le=1e6)]  # of a loss beside others: beyond, float32 keeps nothing of the others
Share = Annotated[float, Field(ge=0, lt=1)]


def _path(text: str) -> str:
    if problem := path_problem(text):
        raise ValueError(problem)
    return text


PathText = Annotated[str, AfterValidator(_path)]  # of a folder or a URL, taken as it stands: no ~, no $NAME, no *


class Section(BaseModel):
    """A frozen table of the configuration file; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
