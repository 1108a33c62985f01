"""The table that a benchmark prints: rows of figures, a figure of each turn, and what is to be reached."""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field


@dataclass
class Figures:
    """What was measured, by row, in the order of the first turn."""

    rows: dict[str, list[float]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    goals: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, figure: float, unit: str = "s", goal: str = "") -> None:
        """Note a figure."""
        self.rows.setdefault(what, []).append(figure)
        self.units[what], self.goals[what] = unit, goal
        print(f"  {what}: {figure:.3f} {unit}", file=sys.stderr, flush=True)

    def median(self, what: str) -> float:
        """The median of a row."""
        return statistics.median(self.rows[what])

    def ratio(self, what: str, other: str, goal: str = "", *, name: str = "") -> None:
        """Note how the medians of two rows stand to each other."""
        self.add(name or f"{what}, of {other}", self.median(what) / self.median(other), "", goal)

    def show(self) -> None:
        """Print the table."""
        width = max(len(what) for what in self.rows)
        print(f"{'what':<{width}}  {'median':>12}  {'spread':<22}  to reach")
        for what, figures in self.rows.items():
            low, high = min(figures), max(figures)
            digits = 3 if high < 10 else 1
            median = f"{statistics.median(figures):.{digits}f} {self.units[what]}"
            spread = f"{low:.{digits}f}-{high:.{digits}f} ({len(figures)})"
            print(f"{what:<{width}}  {median:>12}  {spread:<22}  {self.goals[what]}")
