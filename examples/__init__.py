"""Programs to read: `gallery.py` has functions nobody wrote a kernel for, `document.py` writes pages of what becomes of them."""
