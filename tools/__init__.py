"""Programs for staff: they build the notebooks, release the course, and grade a class."""
