"""What holds of every figure, at a desk and on a phone."""

from matplotlib.text import Text

from kdlib.pages.drawing import DESK, PHONE

PIXELS = 350  # of a figure on a phone that is 390 wide


def check_layout(figure):
    """Nothing that is drawn is cut: no interval by the axes, no letter by the figure.

    Labels of ticks do not cover each other, and no letter is smaller than 9 pixels on a phone."""
    unseen = []
    for axes in figure.axes:
        for axis, data in (
            (axes.xaxis, axes.dataLim.intervalx),
            (axes.yaxis, axes.dataLim.intervaly),
        ):
            low, high = sorted(axis.get_view_interval())
            assert low <= min(data) + 1e-9 and max(data) <= high + 1e-9
            for tick in axis.get_major_ticks():
                if not low <= tick.get_loc() <= high:  # not drawn
                    unseen += [tick.label1, tick.label2]
        ticks = [t for t in axes.get_xticklabels() if t.get_rotation() == 0 and t not in unseen]
        boxes = [t.get_window_extent() for t in ticks if t.get_text()]
        assert not any(a.overlaps(b) for a, b in zip(boxes, boxes[1:], strict=False))
    within = figure.bbox.padded(2)
    for text in figure.findobj(Text):
        if text.get_text().strip() and text.get_visible() and text not in unseen:
            box = text.get_window_extent()
            assert within.contains(box.x0, box.y0), text
            assert within.contains(box.x1, box.y1), text
            pixels = text.get_fontsize() / 72 / PHONE * PIXELS
            assert figure.get_figwidth() >= DESK or pixels >= 9, text
