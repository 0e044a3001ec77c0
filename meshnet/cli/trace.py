"""``meshnet trace``: live packets, each rule that they meet, held against what explain says."""

from __future__ import annotations

import signal

import click

from meshnet.cli.target_options import harmless_json, output_option, timeout_option
from meshnet.errors import UsageError
from meshnet.model.trace import TracedPacket, TraceEnd, TraceNote, TraceStart
from meshnet.model.values import Value, read_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from meshnet.ops.trace import Tracing

#: The highest limit that can be asked for; without one there is --rate 0.
_MOST = 1_000_000


@click.command()
@click.argument("target")
@click.argument("expression", nargs=-1)
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N packets.")
@click.option("--for", "duration", metavar="TIME", help="End after so long: 30s, 2m.")
@click.option(
    "--rate",
    type=click.IntRange(0, _MOST),
    default=200,
    show_default=True,
    metavar="N",
    help="Trace at most N packets a second, for the system's sake; 0 is no limit.",
)
@click.option(
    "--every-packet",
    is_flag=True,
    help="Also packets in the middle of TCP connections, which nat rules do not see.",
)
@click.option(
    "-v", "--verbose", is_flag=True, help="Rules in their own language, and why; policies."
)
@output_option
@timeout_option
@click.pass_context
def command(
    ctx: click.Context,
    target: str,
    expression: tuple[str, ...],
    count: int | None,
    duration: str | None,
    rate: int,
    every_packet: bool,
    verbose: bool,
    output: str,
    timeout: float,
) -> None:
    """Show live packets of TARGET, the rules that they meet, and who sent them.

    EXPRESSION says which: tcp | udp | [src|dst] port N | [src|dst] host ADDRESS | uid N, joined by
    `and`. Without one, or without `udp` in it, the first packet of each TCP connection.

    Each packet is compared with what explain predicts; a disagreement is a defect of meshnet.
    What is switched on for the trace goes away with this process, also when it is killed. Ends
    with Ctrl-C, --count or --for; with 3 where something disagreed, else with 0. With -o json
    each event is a line.
    """
    from meshnet.host.target import resolve
    from meshnet.ops.trace import TraceOrder, Tracing
    from meshnet.reason.trace_filter import parse_filter

    asked = parse_filter(" ".join(expression))
    seconds = read_duration(Value(duration, "--for")) if duration is not None else None
    if target == "all":
        raise UsageError("'all' is no single namespace", "name one target")
    order = TraceOrder(asked, rate, every_packet, timeout)
    tracing = Tracing(resolve(target), order, count, seconds)
    ctx.exit(_show(tracing, target, output, verbose))


def _show(tracing: Tracing, target: str, output: str, verbose: bool) -> int:
    """Print everything as it comes; what to end with."""
    _end_by_signals(tracing)
    write = _json_lines() if output == "json" else _text_lines(target, verbose)
    code = 0
    try:
        for item in tracing.items():
            write(item)
            if isinstance(item, TraceEnd):
                code = 3 if item.disagreed else 1 if item.left else 0
    except BrokenPipeError:
        # Whoever read has seen enough.
        _silence()
    return code


def _end_by_signals(tracing: Tracing) -> None:
    """The first interrupt lets the trace finish, the second one is an interrupt as usual."""

    def stop(number: int, frame: object) -> None:
        again = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, again)
        tracing.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _silence() -> None:
    """Standard output leads nowhere from now on: Python flushes it once more at its end."""
    import os
    import sys

    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def _write_whole(text: str) -> None:
    """Write to standard output at once.

    Python 3.11's own streams lose the rest of a long text where a signal comes meanwhile.
    """
    import os
    import sys

    sys.stdout.flush()
    view = memoryview(text.encode())
    while view:
        view = view[os.write(sys.stdout.fileno(), view) :]


def _json_lines() -> Callable[[object], None]:
    import msgspec

    from meshnet.render.trace import (
        end_document,
        note_document,
        packet_document,
        start_document,
    )

    def write(item: object) -> None:
        if isinstance(item, TracedPacket):
            document = packet_document(item)
        elif isinstance(item, TraceStart):
            document = start_document(item)
        elif isinstance(item, TraceNote):
            document = note_document(item)
        else:
            assert isinstance(item, TraceEnd)
            document = end_document(item)
        _write_whole(harmless_json(msgspec.json.encode(document).decode()) + "\n")

    return write


def _text_lines(target: str, verbose: bool) -> Callable[[object], None]:
    from meshnet.render.console import console
    from meshnet.render.trace import TraceWriter

    out = console()
    writer = TraceWriter(out, target, verbose)

    def write(item: object) -> None:
        if isinstance(item, TracedPacket):
            writer.packet(item)
        elif isinstance(item, TraceStart):
            writer.start(item)
        elif isinstance(item, TraceNote):
            writer.note(item)
        else:
            assert isinstance(item, TraceEnd)
            writer.end(item)
        out.file.flush()

    return write
