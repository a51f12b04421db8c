"""Drawing pictures: the request, the graph that draws it, and its parts."""
