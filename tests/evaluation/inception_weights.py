"""Random weights of the Inception network of 2015, in the layouts of the public files."""

import json

import numpy as np
import tensorflow as tf

# The names of the frozen graph, by those of the port; each block's towers in the graph's order.
_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
BLOCKS = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
SHAPES = {
    "Conv2d_1a_3x3": (32, 3, 3, 3),
    "Conv2d_2a_3x3": (32, 32, 3, 3),
    "Conv2d_2b_3x3": (64, 32, 3, 3),
    "Conv2d_3b_1x1": (80, 64, 1, 1),
    "Conv2d_4a_3x3": (192, 80, 3, 3),
}
for _block, _inputs, _pooled in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
    SHAPES |= {
        f"Mixed_{_block}.branch1x1": (64, _inputs, 1, 1),
        f"Mixed_{_block}.branch5x5_1": (48, _inputs, 1, 1),
        f"Mixed_{_block}.branch5x5_2": (64, 48, 5, 5),
        f"Mixed_{_block}.branch3x3dbl_1": (64, _inputs, 1, 1),
        f"Mixed_{_block}.branch3x3dbl_2": (96, 64, 3, 3),
        f"Mixed_{_block}.branch3x3dbl_3": (96, 96, 3, 3),
        f"Mixed_{_block}.branch_pool": (_pooled, _inputs, 1, 1),
    }
SHAPES |= {
    "Mixed_6a.branch3x3": (384, 288, 3, 3),
    "Mixed_6a.branch3x3dbl_1": (64, 288, 1, 1),
    "Mixed_6a.branch3x3dbl_2": (96, 64, 3, 3),
    "Mixed_6a.branch3x3dbl_3": (96, 96, 3, 3),
}
for _block, _c in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
    SHAPES |= {
        f"Mixed_{_block}.branch1x1": (192, 768, 1, 1),
        f"Mixed_{_block}.branch7x7_1": (_c, 768, 1, 1),
        f"Mixed_{_block}.branch7x7_2": (_c, _c, 1, 7),
        f"Mixed_{_block}.branch7x7_3": (192, _c, 7, 1),
        f"Mixed_{_block}.branch7x7dbl_1": (_c, 768, 1, 1),
        f"Mixed_{_block}.branch7x7dbl_2": (_c, _c, 7, 1),
        f"Mixed_{_block}.branch7x7dbl_3": (_c, _c, 1, 7),
        f"Mixed_{_block}.branch7x7dbl_4": (_c, _c, 7, 1),
        f"Mixed_{_block}.branch7x7dbl_5": (192, _c, 1, 7),
        f"Mixed_{_block}.branch_pool": (192, 768, 1, 1),
    }
SHAPES |= {
    "Mixed_7a.branch3x3_1": (192, 768, 1, 1),
    "Mixed_7a.branch3x3_2": (320, 192, 3, 3),
    "Mixed_7a.branch7x7x3_1": (192, 768, 1, 1),
    "Mixed_7a.branch7x7x3_2": (192, 192, 1, 7),
    "Mixed_7a.branch7x7x3_3": (192, 192, 7, 1),
    "Mixed_7a.branch7x7x3_4": (192, 192, 3, 3),
}
for _block, _inputs in (("7b", 1280), ("7c", 2048)):
    SHAPES |= {
        f"Mixed_{_block}.branch1x1": (320, _inputs, 1, 1),
        f"Mixed_{_block}.branch3x3_1": (384, _inputs, 1, 1),
        f"Mixed_{_block}.branch3x3_2a": (384, 384, 1, 3),
        f"Mixed_{_block}.branch3x3_2b": (384, 384, 3, 1),
        f"Mixed_{_block}.branch3x3dbl_1": (448, _inputs, 1, 1),
        f"Mixed_{_block}.branch3x3dbl_2": (384, 448, 3, 3),
        f"Mixed_{_block}.branch3x3dbl_3a": (384, 384, 1, 3),
        f"Mixed_{_block}.branch3x3dbl_3b": (384, 384, 3, 1),
        f"Mixed_{_block}.branch_pool": (192, _inputs, 1, 1),
    }


def random_state(seed=3):
    """A state dict of the port with values of which all matter."""
    rng, state = np.random.default_rng(seed), {}
    for name, shape in SHAPES.items():
        kernel = rng.standard_normal(shape, "float32")
        state[f"{name}.conv.weight"] = kernel * np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
        state[f"{name}.bn.weight"] = rng.uniform(0.8, 1.2, shape[0]).astype("float32")
        state[f"{name}.bn.bias"] = rng.normal(0.0, 0.1, shape[0]).astype("float32")
        state[f"{name}.bn.running_mean"] = rng.normal(0.0, 0.1, shape[0]).astype("float32")
        # Some small: the normalisation's epsilon is seen.
        variance = rng.choice([0.01, 1.0], shape[0], p=(0.05, 0.95))
        state[f"{name}.bn.running_var"] = variance.astype("float32")
    state["fc.weight"] = rng.standard_normal((1008, 2048), "float32") * np.float32(0.05)
    state["fc.bias"] = rng.standard_normal(1008, "float32")
    return state


def write_safetensors(state, path):
    header, offset = {}, 0
    for name, value in state.items():
        end = offset + value.nbytes
        header[name] = {
            "dtype": "F32",
            "shape": list(value.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for value in state.values():
            file.write(value.tobytes())
    return path


class Graph:
    """Writes a graph definition operation by operation, as TensorFlow of 2015 did."""

    def __init__(self):
        self.definition = tf.compat.v1.GraphDef()
        self.definition.versions.producer = 8

    def add(self, name, op, *inputs, **attributes):
        node = self.definition.node.add(name=name, op=op, input=inputs)
        for key, value in attributes.items():
            node.attr[key].CopyFrom(value)
        return name

    def constant(self, name, value):
        value = np.asarray(value)
        kind = tf.as_dtype(value.dtype).as_datatype_enum
        tensor = tf.make_tensor_proto(value)
        return self.add(name, "Const", dtype=_attr(type=kind), value=_attr(tensor=tensor))

    def write(self, path):
        path.write_bytes(self.definition.SerializeToString())
        return path


def _attr(**value):
    return tf.compat.v1.AttrValue(**value)


FLOAT = _attr(type=tf.float32.as_datatype_enum)


def frozen_graph(state):
    """The whole network as `classify_image_graph_def.pb` names it."""
    graph = Graph()

    def convolution(x, name, port, padding=b"SAME", stride=1):
        kernel = state[f"{port}.conv.weight"].transpose(2, 3, 1, 0)
        parts = {"moving_mean": "running_mean", "moving_variance": "running_var"}
        parts |= {"beta": "bias", "gamma": "weight"}
        graph.constant(f"{name}/conv2d_params", kernel)
        graph.add(
            f"{name}/Conv2D",
            "Conv2D",
            x,
            f"{name}/conv2d_params",
            T=FLOAT,
            padding=_attr(s=padding),
            strides=_attr(list=_attr().ListValue(i=[1, stride, stride, 1])),
        )
        values = [
            graph.constant(f"{name}/batchnorm/{key}", state[f"{port}.bn.{part}"])
            for key, part in parts.items()
        ]
        graph.add(
            f"{name}/batchnorm",
            "BatchNormWithGlobalNormalization",
            f"{name}/Conv2D",
            *values,
            T=FLOAT,
            variance_epsilon=_attr(f=0.001),
            scale_after_normalization=_attr(b=True),
        )
        return graph.add(name, "Relu", f"{name}/batchnorm", T=FLOAT)

    def pool(x, name, op, side, stride, padding):
        sides = _attr(list=_attr().ListValue(i=[1, side, side, 1]))
        strides = _attr(list=_attr().ListValue(i=[1, stride, stride, 1]))
        return graph.add(
            name, op, x, T=FLOAT, ksize=sides, strides=strides, padding=_attr(s=padding)
        )

    def join(name, *parts):
        graph.constant(f"{name}/concat_dim", np.int32(3))
        graph.add(name, "Concat", f"{name}/concat_dim", *parts, T=FLOAT, N=_attr(i=len(parts)))
        return name

    def tower(x, name, port, *steps):
        for number, (branch, padding, stride) in enumerate(steps):
            inner = f"{name}/conv{f'_{number}' if number else ''}"
            x = convolution(x, inner, f"{port}.{branch}", padding, stride)
        return x

    def same(*branches):
        return [(branch, b"SAME", 1) for branch in branches]

    x = graph.add("ExpandDims", "Placeholder", dtype=FLOAT)
    graph.constant("ResizeBilinear/size", np.int32([299, 299]))
    x = graph.add("ResizeBilinear", "ResizeBilinear", x, "ResizeBilinear/size", T=FLOAT)
    graph.constant("Sub/y", np.float32(128))
    graph.constant("Mul/y", np.float32(1 / 128))
    x = graph.add("Sub", "Sub", x, "Sub/y", T=FLOAT)
    x = graph.add("Mul", "Mul", x, "Mul/y", T=FLOAT)
    x = convolution(x, "conv", _STEM[0], b"VALID", 2)
    x = convolution(x, "conv_1", _STEM[1], b"VALID")
    x = convolution(x, "conv_2", _STEM[2])
    x = pool(x, "pool", "MaxPool", 3, 2, b"VALID")
    x = convolution(x, "conv_3", _STEM[3], b"VALID")
    x = convolution(x, "conv_4", _STEM[4], b"VALID")
    x = pool(x, "pool_1", "MaxPool", 3, 2, b"VALID")
    for number, block in enumerate(BLOCKS):
        name, port = f"mixed{f'_{number}' if number else ''}", f"Mixed_{block}"
        if block in ("6a", "7a"):
            down = [(b"VALID", 2)]
            if block == "6a":
                first = tower(x, name, port, ("branch3x3", *down[0]))
                steps = [*same("branch3x3dbl_1", "branch3x3dbl_2"), ("branch3x3dbl_3", *down[0])]
                second = tower(x, f"{name}/tower", port, *steps)
            else:
                steps = [*same("branch3x3_1"), ("branch3x3_2", *down[0])]
                first = tower(x, f"{name}/tower", port, *steps)
                long = same(*(f"branch7x7x3_{i}" for i in (1, 2, 3)))
                steps = [*long, ("branch7x7x3_4", *down[0])]
                second = tower(x, f"{name}/tower_1", port, *steps)
            third = pool(x, f"{name}/pool", "MaxPool", 3, 2, b"VALID")
            x = join(f"{name}/join", first, second, third)
            continue
        parts = [tower(x, name, port, *same("branch1x1"))]
        if block[0] == "5":
            parts.append(tower(x, f"{name}/tower", port, *same("branch5x5_1", "branch5x5_2")))
            triple = same(*(f"branch3x3dbl_{i}" for i in (1, 2, 3)))
            parts.append(tower(x, f"{name}/tower_1", port, *triple))
        elif block[0] == "6":
            long = same(*(f"branch7x7_{i}" for i in (1, 2, 3)))
            parts.append(tower(x, f"{name}/tower", port, *long))
            longer = same(*(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)))
            parts.append(tower(x, f"{name}/tower_1", port, *longer))
        else:
            for inner, before in (("branch3x3", ("_1",)), ("branch3x3dbl", ("_1", "_2"))):
                place = f"{name}/tower" + ("_1" if "dbl" in inner else "")
                y = tower(x, place, port, *same(*(inner + end for end in before)))
                fork = f"{inner}_{len(before) + 1}"
                parts.append(convolution(y, f"{place}/mixed/conv", f"{port}.{fork}a"))
                parts.append(convolution(y, f"{place}/mixed/conv_1", f"{port}.{fork}b"))
        kind = "MaxPool" if block == "7c" else "AvgPool"
        y = pool(x, f"{name}/tower_2/pool", kind, 3, 1, b"SAME")
        parts.append(tower(y, f"{name}/tower_2", port, *same("branch_pool")))
        x = join(f"{name}/join", *parts)
    pool(x, "pool_3", "AvgPool", 8, 1, b"VALID")
    graph.constant("pool_3/_reshape/shape", np.int32([-1, 2048]))
    graph.add("pool_3/_reshape", "Reshape", "pool_3", "pool_3/_reshape/shape", T=FLOAT)
    graph.constant("softmax/weights", np.ascontiguousarray(state["fc.weight"].T))
    graph.constant("softmax/biases", state["fc.bias"])
    product = "softmax/logits/MatMul"
    graph.add(product, "MatMul", "pool_3/_reshape", "softmax/weights", T=FLOAT)
    graph.add("softmax/logits", "BiasAdd", product, "softmax/biases", T=FLOAT)
    return graph
