"""`mmseg-tome demo`: render a small world, train on it without merging, test with it."""
