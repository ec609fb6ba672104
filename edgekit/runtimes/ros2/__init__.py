"""The form for vehicles with ROS 2: an ament_cmake package with a C++17 class, an example node, and a self-test."""
import re

from edgekit.runtimes import cmake
from edgekit.runtimes.cmake import c_type
from edgekit.runtimes.embed import Files, Model, count, libraries, licence, signature, template, vectors
from edgekit.runtimes.session import Entry, Port

_MESSAGES = {"float32": "Float32", "float64": "Float64", "float16": "UInt16", "bool": "UInt8",
             **{f"{u}int{n}": f"{'U' if u else ''}Int{n}" for u in ("", "u") for n in (8, 16, 32, 64)}}


def files(model: Model) -> Files:
    """The prefix of the CMake form, and around it what makes it an ament package."""
    found = libraries(model, "ros2", "arm64", ("Linux",))
    package = "edgekit_" + model.name.lower()
    types = {dtype: f"{m}MultiArray" for dtype, m in _MESSAGES.items()}
    return {**cmake.prefix(model, found), **vectors(model, "test/vectors"), "src/node.cpp": _node(model),
            "package.xml": template("ros2/package.xml", model, package=package, license=licence(model) or "unknown"),
            "CMakeLists.txt": template("ros2/CMakeLists.txt", model, package=package),
            f"cmake/{package}-extras.cmake": template("ros2/extras.cmake", model, package=package),
            "test/vectors.cpp": template("ros2/vectors.cpp", model, checks="\n".join(_check(model, e) for e in model.entries),
                                         calls=" + ".join(f"check_{e.name}(model, folder)" for e in model.entries)),
            "README.md": template("ros2/README.md", model, package=package, choices=cmake.choices(found),
                                  signatures=signature(model, types).replace("\n", "\n    "))}


def _message(port: Port) -> str:
    return f"std_msgs::msg::{_MESSAGES[port.dtype.name]}MultiArray"


def _node(model: Model) -> bytes:
    """The node of the first entry: the first input starts a run, or a clock where there are none."""
    entry = model.entries[0]
    kinds = sorted({_MESSAGES[p.dtype.name] for p in (*entry.inputs, *entry.outputs)})
    setup, publish, members = [], [], []
    for k, p in enumerate(entry.outputs):
        setup.append(f'out_{k}_ = create_publisher<{_message(p)}>("~/{p.name}", 10);')
        publish.append(f"{_message(p)} message_{k};\n        message_{k}.data = outputs_.{p.name};\n        out_{k}_->publish(message_{k});")
        members.append(f"rclcpp::Publisher<{_message(p)}>::SharedPtr out_{k}_;")
    for k, p in enumerate(entry.inputs):
        act = f"given_{k}_ = message.data; " + "run(); " * (k == 0)
        setup.append(f'in_{k}_ = create_subscription<{_message(p)}>(\n            "~/{p.name}", 10, '
                     f"[this](const {_message(p)} &message) {{ {act}}});")
        members += [f"std::vector<{c_type(p)}> given_{k}_;", f"rclcpp::Subscription<{_message(p)}>::SharedPtr in_{k}_;"]
    if not entry.inputs:
        setup.append("clock_ = create_wall_timer(std::chrono::milliseconds(100), [this] { run(); });")
        members.append("rclcpp::TimerBase::SharedPtr clock_;")
    return template(
        "ros2/node.cpp", model, entry=entry.name, setup=_lines(setup, 8), publish=_lines(publish, 8), members=_lines(members, 4),
        includes="".join(f"#include <std_msgs/msg/{_header(k)}_multi_array.hpp>\n" for k in kinds),
        arguments=", ".join([*(f"given_{k}_" for k in range(len(entry.inputs))), "outputs_"]),
        when=f"The input {entry.inputs[0].name} starts a run." if entry.inputs else "It runs ten times a second.")


def _header(kind: str) -> str:
    """Float32 -> float32, UInt8 -> u_int8: how rosidl spells it."""
    return re.sub(r"(?<=.)([A-Z])", r"_\1", kind).lower()


def _lines(lines: list[str], indent: int) -> str:
    return "".join(" " * indent + line + "\n" for line in lines)


def _check(model: Model, entry: Entry) -> str:
    """A function that runs the cases of an entry. No port has a name that begins with ek_."""
    takes = [f"const std::vector<{c_type(p)}> {p.name} = take<{c_type(p)}>(ek_file, {count(p)});" for p in entry.inputs]
    checks = [f"compare(ek_found[{k}], ek_out.{p.name}, take<{c_type(p)}>(ek_file, {count(p)}), EK_{p.dtype.name.upper()});"
              for k, p in enumerate(entry.outputs)]
    given = "".join(f"{p.name}, " for p in entry.inputs)
    rows = "".join(f"        ek_found.push_back({{\"{p.name}\"}});\n" for p in entry.outputs).replace("        ", "    ")
    return f"""\
int check_{entry.name}(edgekit_{model.name}::Model &ek_model_, const std::string &ek_folder)
{{
    std::ifstream ek_file(ek_folder + "/{entry.name}.bin", std::ios::binary);
    edgekit_{model.name}::outputs_of_{entry.name}_t ek_out;
    std::vector<Comparison> ek_found;
{rows}    ek_model_.reset();
    for (int ek_case = 0; ek_case < {model.cases[entry.name]}; ek_case++) {{
{_lines(takes, 8)}        ek_model_.{entry.name}({given}ek_out);
{_lines(checks, 8)}    }}
    return report(ek_file, "{entry.name}", ek_found);
}}
"""
