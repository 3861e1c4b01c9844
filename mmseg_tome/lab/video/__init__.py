"""What slot maps that are kept between the frames of a video cost in agreement and flicker."""
