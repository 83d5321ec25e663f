"""What the bodies of several operations share."""

from typing import Annotated

from ninja import Schema
from pydantic import ConfigDict, Field

Text = Annotated[str, Field(max_length=150, pattern=r"^[^\x00]*$")]
Username = Annotated[str, Field(min_length=1, max_length=150, pattern=r"^[^\x00]+$")]


class Body(Schema):
    """A body in which every field is known: one that is not is a mistake that is better told than passed by."""

    model_config = ConfigDict(extra="forbid", strict=True)
