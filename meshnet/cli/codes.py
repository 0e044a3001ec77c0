"""``meshnet codes``: what the codes of findings mean."""

from __future__ import annotations

import click

from meshnet.cli.target_options import output_option
from meshnet.errors import UsageError, printable
from meshnet.model.codes import BY_CODE, CODES, Code


@click.command()
@click.argument("codes", nargs=-1, metavar="[CODE]...")
@output_option
def command(codes: tuple[str, ...], output: str) -> None:
    """List the codes of findings, or explain each CODE: cause, how it is seen, mend."""
    from meshnet.render import codes as render

    asked = tuple(code_of(text) for text in codes)
    if output == "json":
        import json

        click.echo(json.dumps(render.as_document(asked or CODES), indent=2))
    elif asked:
        click.echo("\n\n".join(render.as_explanation(code) for code in asked))
    else:
        click.echo(render.as_list())


def code_of(text: str) -> Code:
    """The code that ``text`` names, in any case and with or without its letters.

    Raises UsageError, with the nearest code, where there is none.
    """
    name = text.strip().upper()
    name = f"MN{name}" if name.isdecimal() and name.isascii() else name
    if name in BY_CODE:
        return BY_CODE[name]
    import difflib

    close = difflib.get_close_matches(name, list(BY_CODE), 1, 0.0)
    hint = f"the nearest is {close[0]}; `meshnet codes` lists them" if close else ""
    raise UsageError(f"there is no code '{printable(text, 40)}'", hint)
