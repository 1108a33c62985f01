"""What a seat does for itself: tell netboot that it is up, and by which ssh host key it is known."""
