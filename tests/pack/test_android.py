"""The Android form without Android: its JNI layer and its Kotlin, compiled strictly and run on a desktop JVM."""
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgekit.pack import pack
from edgekit.runtimes.abi import symbols

STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
JDK = Path(os.path.realpath(shutil.which("javac") or "/nothing/bin/javac")).parents[1]
needs_jdk = pytest.mark.skipif(not ((JDK / "include" / "linux" / "jni_md.h").is_file() and shutil.which("gcc")), reason="no JDK or gcc here")
needs_kotlin = pytest.mark.skipif(not shutil.which("kotlinc"), reason="no Kotlin compiler here")


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def packed(either, tmp_path) -> Path:
    pack(either, "android", tmp_path / "packed")
    return tmp_path / "packed"


@pytest.fixture
def loadable(packed, either, tmp_path) -> Path:
    """A folder with the JNI library, over the host's static library."""
    (source,) = (packed / "cpp").iterdir()
    (static,) = (either / "host").glob("lib*.a")
    folder = tmp_path / "native"
    folder.mkdir()
    run("gcc", *STRICT, "-shared", "-fPIC", f"-I{JDK / 'include'}", f"-I{JDK / 'include' / 'linux'}", f"-I{packed / 'include'}",
        source, static, "-o", folder / f"lib{source.stem}.so", cwd=tmp_path)
    return folder


def test_libraries_by_abi(plain, tmp_path):
    pack(plain, "android", tmp_path / "out")
    for abi, target in (("arm64-v8a", "android-arm64"), ("x86_64", "android-x64")):
        assert (tmp_path / "out" / "jniLibs" / abi / "libtiny.so").read_bytes() == (plain / target / "libtiny.so").read_bytes()


@needs_jdk
def test_native_methods_are_those_of_the_kotlin_class(packed, loadable):
    """Each `external fun` has its C function, by the mangled name, and the other way round."""
    (kotlin,) = [p for p in (packed / "kotlin").rglob("*.kt")]
    text = kotlin.read_text()
    (package,) = re.findall(r"^package ([\w.]+)$", text, re.MULTILINE)
    wanted = {f"Java_{f'{package}.{kotlin.stem}'.replace('_', '_1').replace('.', '_')}_{f}" for f in re.findall(r"external fun (\w+)", text)}
    (library,) = loadable.iterdir()
    assert wanted == {s for s in symbols.read(library.read_bytes()).defined if s.startswith("Java_")}
    assert kotlin.relative_to(packed / "kotlin").parent.as_posix() == package.replace(".", "/")


JAVA = r"""
package edgekit.tiny;

import java.nio.*;
import java.nio.file.*;
import java.util.*;

class TinyModel {
    private native int create(byte[] weights, long[] handle);
    private native void destroy(long handle);
    private native int call(long handle, int entry, Object[] inputs, Object[] outputs, boolean direct);
    private native int resetState(long handle);
    private native int saveState(long handle, byte[] state);
    private native int restoreState(long handle, byte[] state);
    private native int stateBytes();
    private native String statusText(int status);

    static void wanted(Object got, Object expected) {
        if (!got.equals(expected)) throw new AssertionError(got + ", expected " + expected);
    }

    static ByteBuffer direct(int bytes) { return ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder()); }

    public static void main(String[] args) throws Exception {
        System.loadLibrary("tiny_jni");
        new TinyModel().check(Files.readAllBytes(Path.of(args[0])));
        System.out.println("done");
    }

    void check(byte[] weights) {
        long[] handle = new long[1];
        wanted(create(weights, handle), 0);
        long h = handle[0];
        float[] x = {1, 2, 3, 4}, y = new float[4];
        long[] count = {3}, total = new long[1];
        boolean[] flag = {true, false}, flags = new boolean[2];
        Object[] in = {x, count, flag}, out = {y, total, flags};
        wanted(call(h, 0, in, out, false), 0);
        wanted(Arrays.toString(y), "[1.0, 4.0, 9.0, 16.0]");
        byte[] state = new byte[stateBytes()];
        wanted(saveState(h, state), 0);
        wanted(call(h, 0, in, out, false), 0);
        wanted(Arrays.toString(y) + total[0] + flags[0] + flags[1], "[2.0, 8.0, 18.0, 32.0]6truefalse");
        wanted(restoreState(h, state), 0);
        ByteBuffer[] given = {direct(16), direct(8), direct(2)}, made = {direct(16), direct(8), direct(2)};
        for (int i = 0; i < 4; i++) given[0].putFloat(4 * i, x[i]);
        given[1].putLong(0, 7);
        wanted(call(h, 0, given, made, true), 0);
        wanted(made[0].getFloat(12), 32f);
        wanted(made[1].getLong(0), 10L);
        wanted(resetState(h), 0);
        wanted(call(h, 2, new Object[] {x}, new Object[] {y}, false), 0);
        wanted(y[3], 16f);

        String[] told = new String[17];
        for (int k = 0; k < told.length; k++) told[k] = statusText(k).split(" ")[0];
        wanted(told[call(h, 0, new Object[] {x, count}, out, false)], "EK_COUNT");
        wanted(told[call(h, 0, in, new Object[] {y}, false)], "EK_COUNT");
        wanted(told[call(h, 0, new Object[] {new float[5], count, flag}, out, false)], "EK_BYTES");
        wanted(told[call(h, 0, in, new Object[] {new float[3], total, flags}, false)], "EK_BYTES");
        wanted(told[call(h, 0, new Object[] {null, count, flag}, out, false)], "EK_NULL");
        wanted(told[call(h, 0, new Object[] {direct(15), given[1], given[2]}, made, true)], "EK_BYTES");
        wanted(told[call(h, 0, new Object[] {ByteBuffer.allocate(16), given[1], given[2]}, made, true)], "EK_NULL");
        wanted(told[call(h, 3, in, out, false)] + told[call(h, -1, in, out, false)], "EK_RANGEEK_RANGE");
        wanted(told[restoreState(h, new byte[state.length])], "EK_STATE");
        wanted(told[restoreState(h, new byte[3])], "EK_BYTES");
        wanted(told[create(Arrays.copyOf(weights, weights.length - 1), handle)], "EK_WEIGHTS_SIZE");
        weights[100] ^= 1;
        wanted(told[create(weights, handle)], "EK_WEIGHTS_CHECKSUM");
        wanted(handle[0], h);
        wanted(statusText(5), "EK_BYTES a buffer has the wrong number of bytes");
        wanted(statusText(99), "EK_UNKNOWN unknown status");
        destroy(h);
    }
}
"""


@needs_jdk
@pytest.mark.parametrize("either", ["plain"], indirect=True)
def test_the_native_layer_on_a_jvm(loadable, packed, tmp_path):
    (tmp_path / "TinyModel.java").write_text(JAVA)
    run("javac", "-d", "classes", "TinyModel.java", cwd=tmp_path)
    assert run("java", "-Xcheck:jni", f"-Djava.library.path={loadable}", "-cp", "classes", "edgekit.tiny.TinyModel",
               packed / "assets" / "tiny" / "weights.bin", cwd=tmp_path).splitlines()[-1] == "done"


CONTEXT = """
package android.content;
public class Context {
    public static class Assets {
        public java.io.InputStream open(String file) throws java.io.IOException {
            for (String root : System.getProperty("assets").split(":"))
                if (new java.io.File(root, file).exists()) return new java.io.FileInputStream(new java.io.File(root, file));
            throw new java.io.FileNotFoundException(file);
        }
    }
    public Assets getAssets() { return new Assets(); }
}
"""
TESTING = {
    "androidx/test/platform/app/InstrumentationRegistry.java": """
package androidx.test.platform.app;
public class InstrumentationRegistry {
    public static class Instrumentation {
        public android.content.Context getContext() { return new android.content.Context(); }
        public android.content.Context getTargetContext() { return new android.content.Context(); }
    }
    public static Instrumentation getInstrumentation() { return new Instrumentation(); }
}
""",
    "org/junit/Test.java": "package org.junit; public @interface Test {}",
    "org/junit/Assert.java": """
package org.junit;
public class Assert {
    public static void assertEquals(Object a, Object b) { if (!a.equals(b)) throw new AssertionError(b.toString()); }
}
"""}


@needs_jdk
@needs_kotlin
@pytest.mark.slow
@pytest.mark.parametrize("right", [True, False])
def test_kotlin_on_a_jvm(packed, loadable, tmp_path, right):
    """The class, the self-test and the instrumented test, with Android's own classes played by a few lines."""
    for name, text in {"android/content/Context.java": CONTEXT, **TESTING}.items():
        (tmp_path / "java" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "java" / name).write_text(text)
    run("javac", "-d", "classes", *(tmp_path / "java").rglob("*.java"), cwd=tmp_path)
    sources = [*packed.rglob("*.kt")]
    (test,) = [p for p in sources if p.stem.endswith("ModelTest")]
    package = re.findall(r"^package ([\w.]+)$", test.read_text(), re.MULTILINE)[0]
    (tmp_path / "Main.kt").write_text(f"fun main() {{ {package}.{test.stem}().vectors(); println(\"done\") }}\n")
    run("kotlinc", "-Werror", "-cp", "classes", *sources, "Main.kt", "-include-runtime", "-d", "app.jar", cwd=tmp_path)
    if not right:
        (vectors,) = packed.rglob("run.bin")
        vectors.write_bytes(vectors.read_bytes()[:-1] + b"\2")
    command = ["java", f"-Dassets={packed / 'assets'}:{packed / 'test' / 'assets'}", f"-Djava.library.path={loadable}", "-cp",
               f"app.jar{os.pathsep}classes", "MainKt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == ("done\n" if right else "") and ("AssertionError" in done.stderr) != right, done.stdout + done.stderr
