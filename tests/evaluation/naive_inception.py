"""The port's network once more, in plain NumPy, (channels, height, width)."""

import numpy as np


def features(state, picture):
    """(2048,) of a picture (299, 299, 3) in [-1, 1]."""

    def conv(x, name, stride=1, pad=(0, 0)):
        kernel = state[f"{name}.conv.weight"].astype("float32")
        gamma, beta, mean, variance = (
            state[f"{name}.bn.{part}"].astype("float32")[:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        x = np.pad(x, ((0, 0), (pad[0], pad[0]), (pad[1], pad[1])))
        height, width = (n - k + 1 for n, k in zip(x.shape[1:], kernel.shape[2:], strict=True))
        x = sum(
            np.tensordot(
                kernel[:, :, i, j], x[:, i : i + height : stride, j : j + width : stride], 1
            )
            for i in range(kernel.shape[2])
            for j in range(kernel.shape[3])
        )
        return np.maximum((x - mean) / np.sqrt(variance + 0.001) * gamma + beta, 0.0)

    def windows(x, sides, stride):
        return np.lib.stride_tricks.sliding_window_view(x, sides, (1, 2))[:, ::stride, ::stride]

    def halve(x):
        return windows(x, (3, 3), 2).max((-1, -2))

    def around(x, fill):
        x = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=fill)
        return windows(x, (3, 3), 1)

    def average(x):
        return np.nanmean(around(x, np.nan), (-1, -2))

    def maximum(x):
        return around(x, -np.inf).max((-1, -2))

    x = picture.astype("float32").transpose(2, 0, 1)
    x = conv(x, "Conv2d_1a_3x3", 2)
    x = conv(x, "Conv2d_2a_3x3")
    x = conv(x, "Conv2d_2b_3x3", pad=(1, 1))
    x = conv(halve(x), "Conv2d_3b_1x1")
    x = halve(conv(x, "Conv2d_4a_3x3"))
    for block in ("5b", "5c", "5d"):
        name = f"Mixed_{block}.branch"
        wide = conv(conv(x, f"{name}5x5_1"), f"{name}5x5_2", pad=(2, 2))
        double = conv(conv(x, f"{name}3x3dbl_1"), f"{name}3x3dbl_2", pad=(1, 1))
        double = conv(double, f"{name}3x3dbl_3", pad=(1, 1))
        pooled = conv(average(x), f"{name}_pool")
        x = np.concatenate([conv(x, f"{name}1x1"), wide, double, pooled])
    name = "Mixed_6a.branch"
    double = conv(conv(x, f"{name}3x3dbl_1"), f"{name}3x3dbl_2", pad=(1, 1))
    double = conv(double, f"{name}3x3dbl_3", 2)
    x = np.concatenate([conv(x, f"{name}3x3", 2), double, halve(x)])
    row, column = (0, 3), (3, 0)
    for block in ("6b", "6c", "6d", "6e"):
        name = f"Mixed_{block}.branch"
        single = conv(x, f"{name}7x7_1")
        for number, pad in ((2, row), (3, column)):
            single = conv(single, f"{name}7x7_{number}", pad=pad)
        double = conv(x, f"{name}7x7dbl_1")
        for number, pad in ((2, column), (3, row), (4, column), (5, row)):
            double = conv(double, f"{name}7x7dbl_{number}", pad=pad)
        pooled = conv(average(x), f"{name}_pool")
        x = np.concatenate([conv(x, f"{name}1x1"), single, double, pooled])
    name = "Mixed_7a.branch"
    single = conv(conv(x, f"{name}3x3_1"), f"{name}3x3_2", 2)
    double = conv(conv(x, f"{name}7x7x3_1"), f"{name}7x7x3_2", pad=row)
    double = conv(conv(double, f"{name}7x7x3_3", pad=column), f"{name}7x7x3_4", 2)
    x = np.concatenate([single, double, halve(x)])
    row, column = (0, 1), (1, 0)
    for block, pool in (("7b", average), ("7c", maximum)):
        name = f"Mixed_{block}.branch"
        single = conv(x, f"{name}3x3_1")
        double = conv(conv(x, f"{name}3x3dbl_1"), f"{name}3x3dbl_2", pad=(1, 1))
        x = np.concatenate(
            [
                conv(x, f"{name}1x1"),
                conv(single, f"{name}3x3_2a", pad=row),
                conv(single, f"{name}3x3_2b", pad=column),
                conv(double, f"{name}3x3dbl_3a", pad=row),
                conv(double, f"{name}3x3dbl_3b", pad=column),
                conv(pool(x), f"{name}_pool"),
            ]
        )
    return x.mean((1, 2))
