"""Draws bars of one figure for both brokers as an SVG, without a plotting library."""

import statistics
from html import escape

BAR, GAP, LEFT, WIDTH = 13, 10, 330, 860
COLOURS = {"kafka": "#9aa5b1", "alluvium": "#1f6f8b"}


def draw(results, figure):
    """Horizontal bars of the medians, a pair for each workload on a scale of its own: they differ by hundreds of times."""
    workloads = list(dict.fromkeys(workload for workload, _ in results))
    medians = {
        key: statistics.median(run[figure] for run in runs) for key, runs in results.items() if figure in runs[0]
    }
    parts, top = [], 40
    for workload in workloads:
        values = {kind: medians[workload, kind] for kind in COLOURS if (workload, kind) in medians}
        scale = (WIDTH - LEFT - 80) / max([*values.values(), 1e-9])
        parts.append(text(LEFT - 10, top + BAR + 4, workload, "end"))
        for row, kind in enumerate(COLOURS):
            if kind not in values:
                continue
            y, length = top + row * BAR, values[kind] * scale
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{COLOURS[kind]}"/>')
            parts.append(text(LEFT + length + 6, y + BAR - 2, number(values[kind]), "start"))
        top += len(COLOURS) * BAR + GAP
    legend = "".join(
        f'<rect x="{LEFT + at * 100}" y="12" width="12" height="12" fill="{colour}"/>'
        + text(LEFT + at * 100 + 18, 23, kind, "start")
        for at, (kind, colour) in enumerate(COLOURS.items())
    )
    title = text(10, 23, f"Broker, {figure}: shorter is better", "start")
    note = text(WIDTH - 10, 23, "each pair on a scale of its own", "end")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{title}{legend}{note}{"".join(parts)}</svg>\n'
    )


def number(value):
    """A figure with three digits that matter."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def text(x, y, content, anchor):
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(content)}</text>'
