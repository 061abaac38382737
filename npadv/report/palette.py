"""The house colours, shared by the figures and the page.

Every pair that stands for a difference (right and wrong, plus and minus, one curve and the next) stays apart under the
common kinds of colour blindness, and never says by colour alone what a symbol, a marker or a label does not say too.
"""

WHITE = "#ffffff"
INK = "#1b1f24"  # text
MUTED = "#5a626c"  # captions, ticks
RULE = "#d5d9de"  # hairlines, frames
BLUE = "#0067a8"  # links on the page; a pixel made darker
VERMILION = "#c24a00"  # a wrong prediction; a pixel made brighter

#: Curves, in order of use: blue, vermilion, green, mauve, orange, sky (after Okabe and Ito, 2008).
SERIES = (BLUE, VERMILION, "#008a66", "#b5578f", "#d99200", "#4aa3dc")
#: Markers travel with the colours; their number shares no factor with the colours' so that pairs repeat late.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

#: The page by day and by night.
LIGHT = {"paper": WHITE, "ink": INK, "muted": MUTED, "rule": RULE, "accent": BLUE}
DARK = {"paper": "#15181c", "ink": "#e6e4df", "muted": "#a3a9b1", "rule": "#363c44", "accent": "#79b8ea"}
