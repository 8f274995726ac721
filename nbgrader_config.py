"""What nbgrader needs to know of the course; solutions/README.md says how to grade with it."""

c = get_config()  # noqa: F821 - nbgrader gives it to this file

c.CourseDirectory.course_id = "gradients-in-depth"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"

# What stands where an answer goes. It is an error, so that a forgotten answer is never taken for one.
c.ClearSolutions.code_stub = {
    "python": 'raise NotImplementedError("Write your answer here, in place of this line.")'
}
c.ClearSolutions.text_stub = "*Write your answer here, in place of this line.*"
