"""Draws bars of one figure for both brokers as an SVG, without a plotting library."""

import statistics
from html import escape

BAR, GAP, LEFT, WIDTH = 14, 14, 290, 860
COLOURS = {"kafka": "#9aa5b1", "alluvium": "#1f6f8b"}


def draw(results, figure):
    """Horizontal bars of the medians, a pair for each workload, on one scale."""
    workloads = list(dict.fromkeys(workload for workload, _ in results))
    medians = {
        key: statistics.median(run[figure] for run in runs) for key, runs in results.items() if figure in runs[0]
    }
    scale = (WIDTH - LEFT - 80) / max([*medians.values(), 1e-9])
    parts, top = [], 40
    for workload in workloads:
        parts.append(text(LEFT - 10, top + BAR + 4, workload, "end"))
        for kind in COLOURS:
            value = medians.get((workload, kind))
            if value is not None:
                parts.append(
                    f'<rect x="{LEFT}" y="{top}" width="{value * scale:.1f}" height="{BAR}" fill="{COLOURS[kind]}"/>'
                )
                parts.append(text(LEFT + value * scale + 6, top + BAR - 3, f"{value:.2f}", "start"))
            top += BAR
        top += GAP
    legend = "".join(
        f'<rect x="{LEFT + at * 120}" y="12" width="12" height="12" fill="{colour}"/>'
        + text(LEFT + at * 120 + 18, 23, kind, "start")
        for at, (kind, colour) in enumerate(COLOURS.items())
    )
    title = text(10, 23, f"Broker, {figure}: shorter is better", "start")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{title}{legend}{"".join(parts)}</svg>\n'
    )


def text(x, y, content, anchor):
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(content)}</text>'
