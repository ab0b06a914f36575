"""optc schema: the JSON Schema of what people write and machines read, for editors and other tools."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated

import typer

from optimizer.commands import console
from optimizer.documents import DOCUMENTS, json_schema
from optimizer.errors import unknown


def schema(ctx: typer.Context, document: Annotated[str, typer.Argument(help=", ".join(DOCUMENTS))] = "recipe") -> None:
    """Print the JSON Schema of a document."""
    if document not in DOCUMENTS:
        raise unknown("document", document, DOCUMENTS)
    console(ctx).print(jsonlib.dumps(json_schema(document), indent=1))
