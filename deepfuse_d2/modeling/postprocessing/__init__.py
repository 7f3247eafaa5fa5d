"""From what a network gives to what is asked for: unpasted masks, pasting, tiles, row bands."""
