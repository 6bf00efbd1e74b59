"""From what a person sends (text, images, video, PDF) to what the model takes; the only such path."""
