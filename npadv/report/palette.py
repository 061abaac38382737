"""The colours of the figures and the page.

Colours that mark a difference (right and wrong, plus and minus, one curve and the next) are distinct under the common kinds
of colour blindness. A symbol, a marker or a label always shows the same difference, so that no reader depends on colour.
"""

WHITE = "#ffffff"
INK = "#1b1f24"  # text
MUTED = "#5a626c"  # captions, ticks
RULE = "#d5d9de"  # hairlines, frames
BLUE = "#0067a8"  # links on the page; a pixel made darker
VERMILION = "#c24a00"  # a wrong prediction; a pixel made brighter

#: Curves, in order of use: blue, vermilion, green, mauve, orange, sky (after Okabe and Ito, 2008).
SERIES = (BLUE, VERMILION, "#008a66", "#b5578f", "#d99200", "#4aa3dc")
#: Each curve has a colour and a marker. 6 colours and 7 markers share no factor, so pairs repeat only after 42 curves.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

#: The page's colours in light and in dark mode.
LIGHT = {"paper": WHITE, "ink": INK, "muted": MUTED, "rule": RULE, "accent": BLUE}
DARK = {"paper": "#15181c", "ink": "#e6e4df", "muted": "#a3a9b1", "rule": "#363c44", "accent": "#79b8ea"}
