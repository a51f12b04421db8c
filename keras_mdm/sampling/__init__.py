"""Drawing pictures: what is asked for, the graph that draws it, and its parts."""
