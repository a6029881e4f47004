"""``birdbone chains``: the predefined chains."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import SettingError, did_you_mean
from .options import AsJson, print_json

_NAME = "One chain, with its settings."
_YAML = "Print the chain as a recipe for `birdbone run --recipe`."


def chains(
    name: Annotated[str | None, typer.Argument(help=_NAME)] = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help=_YAML)] = False,
    as_json: AsJson = False,
) -> None:
    """List the predefined chains, or show one as a recipe."""
    from ..chains import CHAINS
    from ..reports.chains import chain_page, chain_yaml, chains_report
    from ..reports.terminal import show

    if name is not None and name not in CHAINS:
        raise SettingError(f"there is no chain '{name}'; {did_you_mean(name, CHAINS)}")
    if as_yaml and name is None:
        raise SettingError(f"--yaml prints one chain; give its name, one of {', '.join(CHAINS)}")
    pages = [chain_page(each, CHAINS[each]) for each in ([name] if name else CHAINS)]
    if as_yaml:
        typer.echo(chain_yaml(pages[0]))
    elif as_json:
        print_json([page.as_dict() for page in pages])
    else:
        show(chains_report(pages))
