"""Order: which record comes when, as a pure function of the seed and the step."""

from keras_mdm.data.order.windows import WindowOrder, place_in

__all__ = ["WindowOrder", "place_in"]
