"""Render the counts of the robustness campaigns (tests/campaigns): docs/notes/robustness.md."""

from __future__ import annotations

from reproduction.render.cells import Line, last, of_study

# The test by its name in result lines, what it does, and the counts that are shown, with their words.
CAMPAIGNS = {
    "kills": ("training killed", {"kills": "kills in", "chains": "chains,", "chains_identical": "identical"}),
    "kills_of_verbs": (
        "other commands killed",
        {"kills": "kills in", "chains": "chains,", "chains_identical": "identical"},
    ),
    "damages": (
        "damaged files",
        {
            "commands": "commands:",
            "refused": "refused in one line,",
            "right": "unaffected,",
            "right_with_a_warning": "right with a warning,",
            "changed_with_a_warning": "changed with a warning,",
            "silent_changes": "changed silently,",
            "tracebacks": "tracebacks",
        },
    ),
    "fuzzed_inputs": (
        "fuzzed inputs",
        {"read": "read,", "refused": "refused in one line,", "tracebacks": "tracebacks or long waits"},
    ),
}


def campaigns(lines: list[Line]) -> str:
    """Render the newest counts of each campaign."""
    chosen = of_study(lines, "campaigns")
    out = ["| campaign | tries | outcome |", "|---|---|---|"]
    for name, (title, words) in CAMPAIGNS.items():
        found = {
            metric: last(chosen, lambda x, m=metric, n=name: (x["experiment"], x["metric"]) == (n, m))  # type: ignore[misc]
            for metric in words
        }
        counts = [f"{line['value']:,.0f} {words[metric]}" for metric, line in found.items() if line is not None]
        tries = next((f"{line['n']:,}" for line in found.values() if line is not None), "not run")
        out.append(f"| {title} | {tries} | {' '.join(counts) or 'not run'} |")
    return "\n".join(out)
