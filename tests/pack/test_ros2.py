"""The ROS 2 form without ROS: the class built strictly and run, the node against a small stand-in for rclcpp."""
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from edgekit.pack import pack

STRICT = "-Wall -Wextra -Werror -pedantic"
pytestmark = pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("g++")), reason="no cmake or g++ here")


def run(*command: object, cwd: Path, code: int = 0) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_class_on_the_vectors(either, tmp_path):
    pack(either, "ros2", tmp_path / "packed")
    run("cmake", "-S", "packed", "-B", "build", f"-DCMAKE_CXX_FLAGS={STRICT} -Wshadow -Wconversion", cwd=tmp_path)
    run("cmake", "--build", "build", cwd=tmp_path)
    assert "100% tests passed" in run("ctest", "--test-dir", "build", "--no-tests=error", cwd=tmp_path)
    (program,), (weights,) = (tmp_path / "build").glob("*_vectors"), (tmp_path / "packed").rglob("weights.bin")
    folder = tmp_path / "packed" / "test" / "vectors"
    assert run(program, weights, folder, cwd=tmp_path).count(": ok, ") == 5
    good = (folder / "run.bin").read_bytes()
    for at in (len(good) - 1, len(good) - 10, 4 * 4 + 8 + 2 + 3):  # bool, int64, float
        (folder / "run.bin").write_bytes(good[:at] + bytes([good[at] ^ 0x41]) + good[at + 1:])
        assert run(program, weights, folder, cwd=tmp_path, code=1).count("WRONG") == 1
    for wrong, said in ((good[:-1], "too short"), (good + b"x", "too long")):
        (folder / "run.bin").write_bytes(wrong)
        assert said in run(program, weights, folder, cwd=tmp_path, code=2)
    assert "cannot read" in run(program, folder, folder, cwd=tmp_path, code=2)


def test_package_xml(either, tmp_path):
    pack(either, "ros2", tmp_path / "packed")
    root = ET.parse(tmp_path / "packed" / "package.xml").getroot()
    name = root.findtext("name")
    assert name in ("edgekit_tiny", "edgekit_e_vil_script_touch_pwned_name") and root.get("format") == "3"
    assert root.findtext("license") == ("Apache-2.0" if name == "edgekit_tiny" else "unknown")
    assert root.findtext("export/build_type") == "ament_cmake"
    assert (tmp_path / "packed" / "cmake" / f"{name}-extras.cmake").is_file()
    assert f"project({name} " in (tmp_path / "packed" / "CMakeLists.txt").read_text()


RCLCPP = """
#pragma once
#include <cstdarg>
#include <chrono>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>
namespace std_msgs { namespace msg {
template <class T> struct MultiArray { std::vector<T> data; };
using Float32MultiArray = MultiArray<float>;
using Int64MultiArray = MultiArray<std::int64_t>;
using UInt8MultiArray = MultiArray<std::uint8_t>;
} }
namespace rclcpp {
struct Logger {};
template <class M> struct Publisher {
    using SharedPtr = std::shared_ptr<Publisher>;
    std::string topic;
    void publish(const M &m)
    {
        std::printf("%s:", topic.c_str());
        for (auto x : m.data) std::printf(" %g", static_cast<double>(x));
        std::printf("\\n");
    }
};
template <class M> struct Subscription { using SharedPtr = std::shared_ptr<Subscription>; std::function<void(const M &)> act; };
struct TimerBase { using SharedPtr = std::shared_ptr<TimerBase>; };
struct Node {
    using SharedPtr = std::shared_ptr<Node>;
    explicit Node(const std::string &) {}
    template <class T> T declare_parameter(const std::string &, const T &value) { return value; }
    template <class M> typename Publisher<M>::SharedPtr create_publisher(const std::string &topic, int)
    {
        return std::make_shared<Publisher<M>>(Publisher<M>{topic});
    }
    template <class M, class F> typename Subscription<M>::SharedPtr create_subscription(const std::string &topic, int, F act)
    {
        auto made = std::make_shared<Subscription<M>>(Subscription<M>{act});
        topics[topic] = made.get();
        return made;
    }
    template <class M> void send(const std::string &topic, M m) { static_cast<Subscription<M> *>(topics.at(topic))->act(m); }
    Logger get_logger() { return {}; }
    std::map<std::string, void *> topics;
};
inline void init(int, char **) {}
inline void shutdown() {}
inline void spin(const Node::SharedPtr &node)
{
    using namespace std_msgs::msg;
    node->send("~/x", Float32MultiArray{{1, 2, 3, 4}});
    node->send("~/count", Int64MultiArray{{3}});
    node->send("~/flag", UInt8MultiArray{{1, 0}});
    node->send("~/x", Float32MultiArray{{1, 2, 3}});
    node->send("~/x", Float32MultiArray{{1, 2, 3, 4}});
    node->send("~/x", Float32MultiArray{{1, 2, 3, 4}});
}
}
#define RCLCPP_WARN(logger, ...) (static_cast<void>(logger), std::printf(__VA_ARGS__), std::printf("\\n"))
"""


def test_the_node(plain, tmp_path):
    pack(plain, "ros2", tmp_path / "packed")
    include = tmp_path / "stand-in"
    (include / "rclcpp").mkdir(parents=True)
    (include / "rclcpp" / "rclcpp.hpp").write_text(RCLCPP)
    (include / "std_msgs" / "msg").mkdir(parents=True)
    for kind in ("float32", "int64", "u_int8"):
        (include / "std_msgs" / "msg" / f"{kind}_multi_array.hpp").write_text("")
    packed = tmp_path / "packed"
    run("g++", "-std=c++17", *STRICT.split(), f'-DWEIGHTS="{packed / "share/tiny/weights.bin"}"', f"-I{include}",
        f"-I{packed / 'include/tiny'}", packed / "src/node.cpp", packed / "lib/tiny/host/libtiny.a", "-o", "node", cwd=tmp_path)
    assert run(tmp_path / "node", cwd=tmp_path).splitlines() == [
        "tiny: count has 0 elements, wanted 1", "tiny: x has 3 elements, wanted 4",
        "~/y: 1 4 9 16", "~/total: 3", "~/flags: 1 0", "~/y: 2 8 18 32", "~/total: 6", "~/flags: 1 0"]
