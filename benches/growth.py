"""Cost against the number of streams: a fit, a verdict, and a plot.

Called by `report`; draws benches/growth.svg from results.json.
"""

import statistics

INK, GRID, PAPER = "#333", "#ddd", "#fff"
# Bytes that an allocator may have had in reserve: less than this says nothing about one stream.
RESERVE = 4_000_000
COLOURS = {1: "#0a6", 5: "#c50"}
NAMES = {1: "one instance, memory", 5: "five instances, Redis"}


def by_instances(rows):
    groups = {}
    for row in rows:
        groups.setdefault(row["instances"], []).append(row)
    return groups


def megabytes(row):
    """All resident memory of the instances: sessions, where they keep them, and streams."""
    return row["bytes_open"] / 1e6


def of_one(row):
    """Kilobytes of one stream."""
    return row["bytes_per_stream"] / 1e3


# Title, unit, value of a row.
PANELS = [
    ("Memory of the instances", "MB", megabytes),
    ("Memory of one stream", "kB", of_one),
    ("Login request to arrival, p50", "ms", lambda row: row["dialog"]["p50_ms"]),
    ("Login request to arrival, p99", "ms", lambda row: row["dialog"]["p99_ms"]),
    ("Processor for 1 000 deliveries", "ms", lambda row: row["dialog"]["processor_ms_per_1000"]),
    ("Processor for 1 000 waiting streams", "ms/s", lambda row: row["processor_us_per_stream_second"]),
]


def fit(rows, value):
    """Slope, intercept and R² of the least-squares line."""
    xs, ys = [row["opened"] for row in rows], [value(row) for row in rows]
    if len(set(xs)) < 2 or len(set(ys)) < 2:
        return 0.0, ys[0] if ys else 0.0, 1.0
    slope, intercept = statistics.linear_regression(xs, ys)
    return slope, intercept, statistics.correlation(xs, ys) ** 2


def telling(rows, value):
    """The rows of which `value` says something."""
    return [row for row in rows if value is not of_one or row["bytes_open"] - row["bytes_before"] > RESERVE]


def number(value):
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 100 else f"{value:.2g}" if value < 1 else f"{value:.1f}"


def verdict(rows):
    """Sentences on what is linear, and on what grows the most beyond it."""
    sentences = []
    for instances, group in by_instances(rows).items():
        slope, intercept, r2 = fit(group, megabytes)
        first, last = group[0], group[-1]
        sentences.append(
            f"{NAMES[instances][0].upper()}{NAMES[instances][1:]}: memory grows by {slope * 1e6:.0f} B a waiting client, session included where the instance keeps it, beside {intercept:.0f} MB once, R² = {r2:.4f} "
            f"from {number(first['opened'])} to {number(last['opened'])} streams."
        )
        bends = []
        for title, unit, value in PANELS[1:]:
            counted = telling(group, value)
            if len(counted) < 2:
                continue
            before, after = value(counted[0]), value(counted[-1])
            if before > 0:
                bends.append((after / before, title, unit, before, after))
        if not bends:
            continue
        factor, title, unit, before, after = max(bends)
        if factor > 1.25:
            sentences.append(f"The first thing that bends is \"{title.lower()}\": {number(before)} to {number(after)} {unit}, times {factor:.1f}.")
        else:
            sentences.append(f"Nothing bends: \"{title.lower()}\" grows the most, times {factor:.2f}.")
    return sentences


def table(rows):
    lines = ["| instances | streams | B a stream | p50 ms | p99 ms | CPU ms per 1 000 deliveries | CPU ms/s per 1 000 waiting | heartbeats (fewest of expected) | dropped | lost |",
             "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        dialog, held = row["dialog"], row["held"]
        lines.append(f"| {row['instances']} | {row['opened']} | {row['bytes_per_stream']:.0f} | {dialog['p50_ms']:.2f} | {dialog['p99_ms']:.2f} | "
                     f"{dialog['processor_ms_per_1000']:.0f} | {row['processor_us_per_stream_second']:.2f} | {held['fewest']} of {held['expected']} | {row['dropped']} | {dialog['lost']} |")
    return lines


def panel(x, y, width, height, title, unit, value, groups):
    """One plot: points, their line, and R² where it is what the plot is for."""
    parts = []
    most_x = max(row["opened"] for group in groups.values() for row in group)
    most_y = max(max(value(row) for group in groups.values() for row in group) * 1.15, 1e-9)
    across = lambda v: x + v / most_x * width
    up = lambda v: y + height - v / most_y * height
    parts.append(f'<text x="{x}" y="{y - 10}" class="title">{title} ({unit})</text>')
    for step in range(5):
        level = most_y * step / 4
        parts.append(f'<line x1="{x}" x2="{x + width}" y1="{up(level):.1f}" y2="{up(level):.1f}" stroke="{GRID}"/>')
        parts.append(f'<text x="{x - 6}" y="{up(level) + 4:.1f}" text-anchor="end">{number(level) if level else 0}</text>')
    for count in range(0, int(most_x) + 1, 20_000 if most_x > 40_000 else 5_000):
        parts.append(f'<text x="{across(count):.1f}" y="{y + height + 16}" text-anchor="middle">{count // 1000}k</text>')
    for index, (instances, group) in enumerate(groups.items()):
        group, colour = telling(group, value), COLOURS[instances]
        if not group:
            continue
        slope, intercept, r2 = fit(group, value)
        start, end = group[0]["opened"], group[-1]["opened"]
        low = lambda n: up(max(0, intercept + slope * n))
        parts.append(f'<line x1="{across(start):.1f}" y1="{low(start):.1f}" x2="{across(end):.1f}" y2="{low(end):.1f}" stroke="{colour}" stroke-dasharray="4 3"/>')
        for row in group:
            parts.append(f'<circle cx="{across(row["opened"]):.1f}" cy="{up(value(row)):.1f}" r="4" fill="{colour}"/>')
        if value is megabytes:
            parts.append(f'<text x="{x + 10}" y="{y + 16 + index * 16}" fill="{colour}">R² = {r2:.4f}, {slope * 1e6:.0f} B a client</text>')
    return parts


def svg(results):
    groups = by_instances(results["rows"])
    width, height, left, top = 360, 190, 70, 90
    parts = []
    for index, (title, unit, value) in enumerate(PANELS):
        x, y = left + (index % 2) * (width + 90), top + (index // 2) * (height + 70)
        parts += panel(x, y, width, height, title, unit, value, groups)
    for index, instances in enumerate(groups):
        parts.append(f'<circle cx="{left + 5 + index * 220}" cy="50" r="5" fill="{COLOURS[instances]}"/>')
        parts.append(f'<text x="{left + 18 + index * 220}" y="54">{NAMES[instances]}</text>')
    total_width, total_height = left + 2 * width + 90 + 30, top + 3 * (height + 70)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total_width}" height="{total_height}" viewBox="0 0 {total_width} {total_height}" font-family="sans-serif" font-size="12" fill="{INK}">',
        "<style>.title{font-weight:bold;font-size:13px}</style>",
        f'<rect width="100%" height="100%" fill="{PAPER}"/>',
        f'<text x="{left}" y="28" font-size="16" font-weight="bold">Cost against open streams ({results["date"]}, {results["cores"]} cores)</text>',
        *parts, "</svg>", ""])
