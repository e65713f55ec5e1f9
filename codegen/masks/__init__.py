"""What a mask leaves of a loop: tiles it empties (`skips.py`), tiles it leaves whole, and how far data let a loop reach."""
