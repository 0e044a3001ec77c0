"""What was proven, and what speaks against the rest, on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from meshnet.model.proof import Counterexample, Proof, Statement
from meshnet.render.console import safe
from meshnet.render.difference import (
    class_in_words,
    hanging,
    reasons,
    show_example,
    show_notes,
)


def show_proof(console: Console, proof: Proof) -> None:
    """Print ``proof``, statement by statement."""
    for number, statement in enumerate(proof.statements):
        if number:
            console.print()
        _show_statement(console, statement, proof.whole)
    if proof.left_out:
        console.print()
    for line in proof.left_out:
        hanging(console, "not asked: ", line, "dim")
    show_notes(console, proof.notes, proof.undecided)


def _show_statement(console: Console, statement: Statement, whole: bool) -> None:
    style = "bold green" if statement.holds and whole else "bold red"
    name = f"{statement.name}: " if statement.name else ""
    head = ("proven  " if whole else "so far  ") if statement.holds else "wrong   "
    hanging(console, head, f"{name}{statement.text}", style)
    for example in statement.counterexamples:
        _show_example(console, example)
    if statement.more:
        console.print(Text("  and there are further classes", style="dim"))


def _show_example(console: Console, example: Counterexample) -> None:
    said = class_in_words(example.hook, example.families, example.conditions)
    hanging(console, "  ", said)
    port = f" by :{example.fate.port}" if example.fate.port else ""
    console.print(safe(f"     {example.fate.verdict}{port}", "bold yellow"))
    for part in reasons(example.fate):
        hanging(console, " " * 12, part, "dim")
    show_example(console, example.packet, example.depends, example.confirmed)
