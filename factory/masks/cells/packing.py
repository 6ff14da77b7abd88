"""Compiled loops that place nuclei on a tile: draw an outline at a site and keep it where the rules allow.

All arithmetic is on integers, except the turn of an outline: two products and a sum, rounded to 1/256 px. Random
numbers come from SplitMix64 (Steele 2014). So an instance map is the same on every machine.
"""

from __future__ import annotations

import math

import numpy as np

from factory.core.compiled import compiled
from factory.geometry.outlines import DIRECTIONS, scan

SITE, PAINT, VOTE = 0, 1, 2
"""Rows of the rules, int8 [3, 256] by region class: whether a centre may lie there; whether pixels may be covered;
vote of a pixel for (1) or against (-1) a positive nucleus."""

LOOKUPS = 4000
"""Most random pixels that are tried for one site."""


@compiled()
def _random(state):  # type: ignore[no-untyped-def]
    """The next SplitMix64 value, as a float64 in [0, 1) of 53 bits."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return float((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@compiled()
def _orient(vertices, y, x, flow, flow_step, polygon):  # type: ignore[no-untyped-def]
    """Write an outline into `polygon` (int64), turned so that its x axis runs along the flow at pixel (y, x)."""
    turned = flow.shape[0] > 1
    c, s = 1.0, 0.0
    if turned:
        row, column = int((y + 0.5) / flow_step) + 1, int((x + 0.5) / flow_step) + 1
        s, c = flow[row, column, 0], flow[row, column, 1]
    for k in range(len(vertices)):
        vx, vy = vertices[k, 0], vertices[k, 1]
        if turned:
            polygon[k, 0] = int(math.floor(vx * c - vy * s + 0.5))
            polygon[k, 1] = int(math.floor(vx * s + vy * c + 0.5))
        else:
            polygon[k, 0], polygon[k, 1] = vx, vy
    return polygon[: len(vertices)]


@compiled()
def _lay(polygon, y, x, instance, regions, rules, overlap, trim, crossings, counts, pixels):  # type: ignore[no-untyped-def]
    """Collect the pixels that a nucleus at (y, x) would show; their number, the share behind others, sum of votes."""
    # `pixels` are flat indices, ascending; none where more than `overlap` is behind others or `trim` is off limits.
    height, width = instance.shape
    top, rows = scan(polygon, crossings, counts)
    total, visible, covered, barred, votes = 0, 0, 0, 0, 0
    for i in range(rows):
        row = y + top + i
        for pair in range(counts[i] // 2):
            start, stop = crossings[i, 2 * pair] + x, crossings[i, 2 * pair + 1] + x
            total += stop - start
            if 0 <= row < height:
                for column in range(max(start, 0), min(stop, width)):
                    region = regions[row, column]
                    if instance[row, column] != 0:
                        covered += 1
                    elif rules[PAINT, region] == 0:
                        barred += 1
                    else:
                        pixels[visible] = row * width + column
                        votes += rules[VOTE, region]
                        visible += 1
        if covered > 0 and overlap == 0.0:
            return 0, 0.0, 0
    if covered > overlap * total or barred > trim * total:
        return 0, 0.0, 0
    return visible, covered / max(total, 1), votes


@compiled()
def _touches(instance, pixels, visible):  # type: ignore[no-untyped-def]
    """Whether another instance lies within one pixel, diagonals included; looks round whole runs of `pixels`."""
    height, width = instance.shape
    start = 0
    while start < visible:
        stop = start + 1
        y, left = pixels[start] // width, pixels[start] % width
        while stop < visible and pixels[stop] == pixels[stop - 1] + 1 and pixels[stop] < (y + 1) * width:
            stop += 1
        right = left + stop - start
        for r in range(max(y - 1, 0), min(y + 2, height)):
            step = right - left + 1 if r == y else 1
            for c in range(left - 1, right + 1, step):
                if 0 <= c < width and instance[r, c] != 0:
                    return True
        start = stop
    return False


@compiled()
def _is_one_piece(pixels, visible, width):  # type: ignore[no-untyped-def]
    """Whether `pixels`, ascending, are one run per row, each below part of the last; if so they are 4-connected."""
    above_start, above_stop, start = -1, -1, 0
    while start < visible:
        stop = start + 1
        while stop < visible and pixels[stop] == pixels[stop - 1] + 1:
            stop += 1
        first, last = pixels[start], pixels[stop - 1]
        if start > 0 and (first > above_stop + width or last < above_start + width):
            return False
        above_start, above_stop, start = first, last, stop
    return True


@compiled()
def _paint(  # type: ignore[no-untyped-def]
    instance, regions, rules, pixels, visible, votes, smallest, wanted, number, stack
):
    """Write the largest 4-connected part of `pixels` as `number` unless it is too small or its votes are not `wanted`.

    Returns whether it was written. `stack` is a buffer as long as `pixels`, the square of a bound on its width.
    """
    height, width = instance.shape
    flat, kinds = instance.ravel(), regions.ravel()
    if width * width > len(pixels) and _is_one_piece(pixels, visible, width):
        good = visible >= smallest and (wanted == 0 or (votes > 0) == (wanted > 0))
        for k in range(visible if good else 0):
            flat[pixels[k]] = number
        return good
    for k in range(visible):
        flat[pixels[k]] = -1
    parts, best, best_size, best_votes = 0, 0, 0, 0
    for k in range(visible):
        if flat[pixels[k]] != -1:
            continue
        parts += 1
        mark, size, part_votes, depth = -1 - parts, 0, 0, 1
        flat[pixels[k]], stack[0] = mark, pixels[k]
        while depth > 0:
            depth -= 1
            at = stack[depth]
            size += 1
            part_votes += rules[VOTE, kinds[at]]
            y, x = at // width, at % width
            for side in range(4):
                r, c = y + (side == 0) - (side == 1), x + (side == 2) - (side == 3)
                if 0 <= r < height and 0 <= c < width and flat[r * width + c] == -1:
                    flat[r * width + c] = mark
                    stack[depth] = r * width + c
                    depth += 1
        if size > best_size:
            best, best_size, best_votes = mark, size, part_votes
    good = best_size >= smallest and (wanted == 0 or (best_votes > 0) == (wanted > 0))
    for k in range(visible):
        flat[pixels[k]] = number if good and flat[pixels[k]] == best else 0
    return good


@compiled()
def _crowded(instance, y, x, distance):  # type: ignore[no-untyped-def]
    """Whether one of eight probes at `distance` pixels hits another instance."""
    height, width = instance.shape
    for k in range(8):
        r = y + int(math.floor(DIRECTIONS[512 * k, 1] * distance + 0.5))
        c = x + int(math.floor(DIRECTIONS[512 * k, 0] * distance + 0.5))
        if 0 <= r < height and 0 <= c < width and instance[r, c] != 0:
            return True
    return False


@compiled()
def _site(state, instance, regions, rules, attraction):  # type: ignore[no-untyped-def]
    """A random free pixel where a centre may lie, as a flat index; -1 where none was found."""
    height, width = instance.shape
    for _ in range(LOOKUPS):
        y, x = int(_random(state) * height), int(_random(state) * width)
        if instance[y, x] == 0 and rules[SITE, regions[y, x]] != 0:
            if attraction.shape[0] > 1 and _random(state) >= attraction[y, x]:
                continue
            return y * width + x
    return -1


@compiled()
def _bounds(radius, offsets):  # type: ignore[no-untyped-def]
    """Side of a square that holds any outline, and the most vertices of one. Loops: numba takes long to compile max."""
    largest, corners = 0.0, 0
    for i in range(len(radius)):
        largest, corners = max(largest, radius[i]), max(corners, offsets[i + 1] - offsets[i])
    return 2 * int(largest) + 4, corners


@compiled()
def place_at_random(  # type: ignore[no-untyped-def]
    instance, regions, rules, vertices, offsets, radius, partner, attraction, flow, flow_step, room, limits, seed, first
):
    """Place outlines at random sites, in order, each behind those before it.

    An outline with a partner is slid towards it until it lies beside or partly behind it. The others keep clear of
    every other instance at first and may touch or overlap in the last quarter of `tries`.

    Args:
        instance: int32 [H, W], changed in place; 0 is free.
        regions: uint8 [H, W]. rules: int8 [3, 256], see `SITE`.
        vertices, offsets, radius: the outlines, see `geometry.Outlines`.
        partner: int64 [N], index of an earlier outline, or -1.
        attraction: float32 [H, W], probability that a site is taken, or [1, 1] for 1 everywhere.
        flow: float32 [h, w, 2], or [1, 1, 2] to leave outlines as they are. flow_step: its step in pixels.
        room: radii around a centre that are kept free at first. seed: uint64.
        limits: float64 [5]: overlap, trim, smallest visible area in pixels, tries, wanted vote: more positive than
            negative pixels (1), not so (-1), any (0).
        first: id of the first instance written; the others follow without gaps.

    Returns:
        bool [N]: which were placed.
    """
    count, width = len(radius), instance.shape[1]
    overlap, trim, smallest, tries, wanted = limits[0], limits[1], limits[2], int(limits[3]), int(limits[4])
    state = np.array([seed], np.uint64)
    size, corners = _bounds(radius, offsets)
    pixels, stack = np.empty(size * size, np.int64), np.empty(size * size, np.int64)
    polygon, crossings = np.empty((corners, 2), np.int64), np.empty((size, corners), np.int64)
    counts = np.empty(size, np.int64)
    done, centre = np.zeros(count, np.bool_), np.zeros(count, np.int64)
    number = first
    for i in range(count):
        outline = vertices[offsets[i] : offsets[i + 1]]
        for attempt in range(tries):
            beside = partner[i] >= 0 and done[partner[i]] and 2 * attempt < tries
            if beside:
                at = _slide(state, outline, radius[i] + radius[partner[i]], centre[partner[i]], instance, regions,
                            rules, overlap, trim, flow, flow_step, polygon, crossings, counts, pixels)  # fmt: skip
            else:
                at = _site(state, instance, regions, rules, attraction)
            if at < 0:
                continue
            y, x = at // width, at % width
            strict = not beside and 4 * attempt < 3 * tries
            if strict and room > 0 and 2 * attempt < tries and _crowded(instance, y, x, room * radius[i]):
                continue
            turned = _orient(outline, y, x, flow, flow_step, polygon)
            visible, _, votes = _lay(turned, y, x, instance, regions, rules, 0.0 if strict else overlap, trim,
                                     crossings, counts, pixels)  # fmt: skip
            if visible < smallest or (strict and _touches(instance, pixels, visible)):
                continue
            if _paint(instance, regions, rules, pixels, visible, votes, smallest, wanted, number, stack):
                done[i], centre[i] = True, at
                number += 1
                break
    return done


@compiled()
def _slide(  # type: ignore[no-untyped-def]
    state, outline, reach, target, instance, regions, rules, overlap, trim, flow, flow_step, polygon, crossings, counts,
    pixels,
):  # fmt: skip
    """Find the site where an outline hides a random share of `overlap` behind its partner at `target`, else -1.

    It comes from a random side. The distance is bisected, as the hidden share grows when outlines come closer.
    """
    height, width = instance.shape
    side = int(_random(state) * 4096)
    aim = overlap * _random(state)
    found, near, far = -1, 0, int(reach)
    while near <= far:
        distance = (near + far) // 2
        y = target // width + int(math.floor(DIRECTIONS[side, 1] * distance + 0.5))
        x = target % width + int(math.floor(DIRECTIONS[side, 0] * distance + 0.5))
        if not (0 <= y < height and 0 <= x < width) or rules[SITE, regions[y, x]] == 0:
            far = distance - 1
            continue
        turned = _orient(outline, y, x, flow, flow_step, polygon)
        visible, covered, _ = _lay(turned, y, x, instance, regions, rules, overlap, trim, crossings, counts, pixels)
        if visible == 0:
            near = distance + 1
        elif covered > 0 or _touches(instance, pixels, visible):
            found = y * width + x
            if covered >= aim:
                near = distance + 1
            else:
                far = distance - 1
        else:
            far = distance - 1
    return found


@compiled()
def place_at_sites(  # type: ignore[no-untyped-def]
    instance, regions, rules, vertices, offsets, radius, sites, flow, flow_step, limits, first
):
    """Place outlines at listed sites: every site takes the next outline, if it fits there.

    Args:
        sites: int64 [S], flat indices, best first. The others: as in `place_at_random`; tries are not used.

    Returns:
        bool [N]: which were placed.
    """
    count, width = len(radius), instance.shape[1]
    size, corners = _bounds(radius, offsets)
    pixels, stack = np.empty(size * size, np.int64), np.empty(size * size, np.int64)
    polygon, crossings = np.empty((corners, 2), np.int64), np.empty((size, corners), np.int64)
    counts = np.empty(size, np.int64)
    done = np.zeros(count, np.bool_)
    number, i = first, 0
    for k in range(len(sites)):
        if i == count:
            break
        y, x = sites[k] // width, sites[k] % width
        if instance[y, x] != 0:
            continue
        turned = _orient(vertices[offsets[i] : offsets[i + 1]], y, x, flow, flow_step, polygon)
        visible, _, votes = _lay(
            turned, y, x, instance, regions, rules, limits[0], limits[1], crossings, counts, pixels
        )
        if visible >= limits[2] and _paint(
            instance, regions, rules, pixels, visible, votes, limits[2], int(limits[4]), number, stack
        ):
            done[i] = True
            number += 1
            i += 1
    return done
