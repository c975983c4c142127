"""What a load test sends: from a TOML file and `LOADTEST_*` environment variables, of which the latter win."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from service.config import FileSettings, read_settings

DEFAULT = Path(__file__).with_name("profile.toml")

_Share = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Profile(FileSettings):
    """All settings; frozen."""

    model_config = SettingsConfigDict(env_prefix="LOADTEST_", frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, description="of everything that is drawn")
    deadline_ms: int = Field(1_000, ge=1, description="of every list; what comes later is no goodput")
    think_seconds: _Positive = Field(
        5.0,
        description="between two calls of a visitor, on average; a visitor is due again whatever became of the last",
    )

    generators: int = Field(
        1,
        ge=1,
        le=64,
        description="processes that ask; one asks for 200 calls per second without getting late",
    )

    users: int = Field(1_000, ge=1, description="with a history, given to them before the test")
    zipf_exponent: float = Field(
        1.0, ge=0, description="how much more often the frequent ones come; 0: not at all"
    )
    new_user_share: _Share = Field(
        0.02, description="of lists, for users without a history, who get popular items"
    )
    history_items: tuple[int, int] = Field(
        (2, 8), description="fewest and most items that a user begins with"
    )

    grpc_share: _Share = Field(0.3, description="of visitors; the others use REST")
    stream_share: _Share = Field(0.1, description="of calls: a list, each item the moment it is certain")
    batch_share: _Share = Field(0.03, description="of calls: lists of several users at once")
    batch_lists: int = Field(3, ge=1, description="lists of a batch")
    event_share: _Share = Field(0.15, description="of calls: a user met an item")
    joined_share: _Share = Field(
        0.3, description="of events: the item was listed, and the event names the list"
    )
    filter_share: _Share = Field(0.2, description="of lists, with a filter")
    list_sizes: tuple[Annotated[int, Field(ge=1, le=50)], ...] = Field(
        (5, 10, 10, 10, 20), min_length=1, description="num_items, drawn from these"
    )

    rate: _Positive = Field(20.0, description="calls per second of step, spike and soak, times their factors")
    ramp_from: _Positive = Field(20.0, description="calls per second of the first stage")
    ramp_growth: float = Field(
        1.25, gt=1, description="of the rate, from stage to stage, until one is not held"
    )
    ramp_stage_seconds: _Positive = Field(5.0)
    ramp_most_stages: int = Field(12, ge=1)
    beyond_factor: _Positive = Field(
        2.0, description="times the last rate that was held: the ramp's last stage"
    )
    beyond_seconds: _Positive = Field(20.0)
    step_factors: tuple[_Positive, ...] = Field((0.5, 1.0, 1.5), min_length=1)
    step_seconds: _Positive = Field(20.0, description="of each")
    spike_factor: _Positive = Field(5.0)
    spike_seconds: _Positive = Field(10.0)
    calm_seconds: _Positive = Field(20.0, description="before the spike, and after it")
    soak_seconds: _Positive = Field(900.0)

    settle_seconds: float = Field(1.0, ge=0, description="of each stage, that the report leaves out")
    limits_ms: tuple[_Positive, ...] = Field(
        (100, 200, 500, 1_000), description="which rate is held at these p99"
    )

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.stream_share + self.batch_share + self.event_share > 1:
            raise ValueError("stream_share, batch_share and event_share are more than all calls")
        if not 1 <= self.history_items[0] <= self.history_items[1]:
            raise ValueError("history_items are the fewest, at least 1, and the most")
        return self


def load_profile(file: Path = DEFAULT) -> Profile:
    """Read a profile from `file` (TOML) and the environment; raises what `service.config.read_settings` raises."""
    return read_settings(Profile, file, "profile")
