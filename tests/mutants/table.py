"""The faults that `python -m tests.mutants` puts into the code: signs, bounds, neutral elements, dropped guards, widths.

A row says where, what stands there, what stands there instead, and the tests that are to catch it. Fragments are short, so that they
stay when the code around them changes; `test_mutants.py` fails where one is no longer there exactly once.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

# What catches faults in the code of one kind.
SLOPE = "tests/test_autodiff.py -k"
RULES = "tests/test_autodiff.py -k 'structural or torch or integers'"
REWRITTEN = "tests/test_rewrites.py tests/test_normalise.py"
ELEMENTS = "tests/test_kernels_elementwise.py -k"
STRUCTURE = "tests/test_kernels_structure.py -k"
INDEX = "tests/test_index.py"
CACHE = "tests/test_cache.py -k 'not race'"

OPS, LEAVES, STRUCTURAL, INDEXING = "gradc/ops.py", "gradc/leaves.py", "gradc/structure.py", "gradc/language/indexing.py"
ALGEBRA, VIEWS, SUMS = "gradc/rewrites/algebra.py", "gradc/rewrites/views.py", "gradc/rewrites/sums.py"
NODES, POSITIONS, EXPRESSIONS = "codegen/nodes.py", "codegen/printing/positions.py", "codegen/printing/expressions.py"
EDGES, SPELLING, ONLINE = "codegen/masks/bounds.py", "codegen/printing/spelling.py", "codegen/printing/online.py"

# fmt: off
MUTANTS = (
    # The table
    Mutant(OPS, "lambda x, out: 1 - out * out", "lambda x, out: 1 + out * out", f"{SLOPE} 'elementwise and tanh'"),
    Mutant(OPS, "lambda x, out: out * (1 - out)", "lambda x, out: out * (1 + out)", f"{SLOPE} 'elementwise and sigmoid'"),
    Mutant(OPS, "lambda x, y, out: -out / y, domain", "lambda x, y, out: out / y, domain", f"{SLOPE} 'elementwise and divide'"),
    Mutant(OPS, "exactly(x, TWO_OVER_ROOT_PI) * exp(-(x * x)), flops=20", "exactly(x, TWO_OVER_ROOT_PI) * exp(x * x), flops=20", f"{SLOPE} 'elementwise and erf'"),
    Mutant(OPS, "rsqrt((x - 1) * (x + 1))", "rsqrt((x + 1) * (x + 1))", f"{SLOPE} 'elementwise and acosh'"),
    Mutant(OPS, "lambda x, out: out * exactly(x, LN2)", "lambda x, out: out * exactly(x, LN10)", f"{SLOPE} 'elementwise and exp2'"),
    Mutant(OPS, "1 / (x * exactly(x, LN10))", "1 / (x * exactly(x, LN2))", f"{SLOPE} 'elementwise and log10'"),
    Mutant(OPS, "return numerator / radius / radius", "return numerator / radius", f"{SLOPE} 'elementwise and atan2'"),
    Mutant(OPS, "lambda x, out: -sin(x)", "lambda x, out: sin(x)", f"{SLOPE} 'elementwise and cos'"),
    Mutant(OPS, "lambda x, out: rsqrt(1 + x * x)", "lambda x, out: rsqrt(1 - x * x)", f"{SLOPE} 'elementwise and asinh'"),
    Mutant(OPS, "exactly(x, -0.5) * out * out * out", "exactly(x, -0.5) * out * out", f"{SLOPE} 'elementwise and rsqrt'"),
    Mutant(OPS, "lambda x, out: 1 / (1 + x * x)", "lambda x, out: 1 / (1 - x * x)", f"{SLOPE} 'elementwise and atan'"),
    Mutant(OPS, "tl.where(({x} % {y} != 0) & (({x} < 0) ^ ({y} < 0)), {x} % {y} + {y}, {x} % {y})", "{x} % {y}", f"{ELEMENTS} 'integers and remainder'"),
    Mutant(OPS, '"{x} >= {y}"', '"{x} > {y}"', f"{ELEMENTS} 'greater_equal'"),
    Mutant(OPS, '"libdevice.trunc({x})"', '"libdevice.floor({x})"', f"{ELEMENTS} 'trunc'"),
    Mutant(OPS, '"{x} >> {y}"', '"{x} << {y}"', f"{ELEMENTS} 'bitwise_right_shift'"),
    Mutant(OPS, """'tl.abs({x}) < float("inf")'""", """'tl.abs({x}) <= float("inf")'""", f"{ELEMENTS} 'isfinite'"),
    Mutant(OPS, '"libdevice.signbit({x}) != 0"', '"{x} < 0"', f"{ELEMENTS} 'signbit'"),

    # Structural operations
    Mutant(STRUCTURAL, "inverse = sorted(range(len(self.axes)), key=self.axes.__getitem__)", "inverse = list(self.axes)", RULES),
    Mutant(STRUCTURAL, "spans = [(n - 1) * s + 1 if n else 0", "spans = [n * s if n else 0", RULES),
    Mutant(STRUCTURAL, "tuple(i + 1 for i in self.interior)), cotangent)", "(1,) * value.ndim), cotangent)", RULES),
    Mutant(STRUCTURAL, "            start = stop\n", "            start = 0\n", RULES),
    Mutant(STRUCTURAL, "ScatterAdd(self.axis, x.shape[self.axis])", "ScatterAdd(self.axis, x.shape[0])", RULES),
    Mutant(STRUCTURAL, "np.add.at(out, tuple(places), updates)", "out[tuple(places)] = updates", "tests/test_indexing.py"),
    Mutant(STRUCTURAL, "(hit, tangent, 0)) / ties", "(hit, tangent, 0))", "tests/test_autodiff.py -k ties"),
    Mutant(STRUCTURAL, '(itself, 1, others))', '(itself, 0, others))', RULES),
    Mutant(STRUCTURAL, "tangent = apply(Reshape(groups), _filled(tangent, groups[-2] * size, 0))", "tangent = apply(Reshape(groups), _filled(tangent, groups[-2] * size, 1))", "tests/test_narrow.py -k factors"),
    Mutant(STRUCTURAL, "Cumulative(self.axis, not self.reverse)", "Cumulative(self.axis, self.reverse)", RULES),
    Mutant(STRUCTURAL, "apply(Gather(self.axis), cotangent, value.operands[1])", "apply(Gather(0), cotangent, value.operands[1])", RULES),
    Mutant(STRUCTURAL, "range(value.ndim) if i not in self.axes)),)", "range(value.ndim) if i in self.axes)),)", RULES),
    Mutant(STRUCTURAL, "max(n - 1, 0) * i, i + 1)", "max(n - 1, 0) * i, 1)", "tests/test_autodiff.py tests/test_interpret.py"),

    # Indices, in the language
    Mutant(INDEXING, "size, entry = sizes[axis], cast(entry, types.int64)", "size, entry = sizes[axis], entry", "tests/test_narrow.py -k read_together"),
    Mutant(INDEXING, "add(multiply(flat, size), entry)", "add(multiply(flat, sizes[0]), entry)", "tests/test_narrow.py -k read_together"),
    Mutant(INDEXING, "flat = cast(reshaped(index, (count,)), types.int64)", "flat = reshaped(index, (count,))", "tests/test_narrow.py -k 'written_at or from_the_end'"),
    Mutant(INDEXING, "fits = logical_and(greater_equal(entry, -size), less(entry, size))", "fits = less(entry, size)", "tests/test_narrow.py tests/test_indexing.py -k 'outside or bounds'"),
    Mutant(INDEXING, "later = less(iota(count, 0, 2), iota(count, 1, 2))", "later = less(iota(count, 1, 2), iota(count, 0, 2))", "tests/test_indexing.py"),
    Mutant(INDEXING, "starts, stops = tuple(r.start if r else 0 for r in ascending), tuple(r[-1] + 1", "starts, stops = tuple(r.start if r else 0 for r in ascending), tuple(r[-1]", "tests/test_indexing.py"),

    # Rewrites
    Mutant(VIEWS, "starts = tuple(a + b * s for a, b, s", "starts = tuple(a + b for a, b, s", REWRITTEN),
    Mutant(VIEWS, "steps = tuple(s * t for s, t", "steps = tuple(t for s, t", REWRITTEN),
    Mutant(VIEWS, " and set(operation.steps) == {1}:", ":", "tests/test_narrow.py -k concatenation"),
    Mutant(VIEWS, "if operation.starts == padding.low and operation.steps", "if operation.steps", "tests/test_narrow.py -k padded_array"),
    Mutant(VIEWS, '"float32": 24', '"float32": 32', "tests/test_narrow.py -k casts"),
    Mutant(VIEWS, '"float64": 53', '"float64": 64', "tests/test_narrow.py -k casts"),
    Mutant(VIEWS, "if not holds_all(x.dtype, origin.dtype) or wraps:", "if wraps:", "tests/test_narrow.py -k casts"),
    Mutant(VIEWS, "return wide.itemsize > narrow.itemsize", "return wide.itemsize >= narrow.itemsize", "tests/test_narrow.py tests/test_rewrites.py -k 'cast'"),
    Mutant(VIEWS, "axes ^ set(x.operation.axes)", "axes | set(x.operation.axes)", REWRITTEN),
    Mutant(VIEWS, "x.shape[axis] != b.operation.low[axis]", "x.shape[axis] > b.operation.low[axis]", "tests/test_narrow.py -k neighbours"),
    Mutant(VIEWS, "    if a.operation.low[axis] > b.operation.low[axis]:\n        a, b = b, a\n", "", REWRITTEN),
    Mutant(SUMS, "count < 128", "count < 1000", "tests/test_narrow.py -k equal_numbers"),
    Mutant(SUMS, "count = prod(x.shape[axis] for axis in repeated)", "count = sum(x.shape[axis] for axis in repeated)", REWRITTEN),
    Mutant(SUMS, '(-sign, operands[1]), (sign, operands[0])', '(sign, operands[1]), (sign, operands[0])', REWRITTEN),
    Mutant(SUMS, "*(remaining[axis] for axis in operation.axes)", "*operation.axes", REWRITTEN),
    Mutant(SUMS, "order = tuple(sorted(kept).index(axis) for axis in kept)", "order = tuple(range(len(kept)))", REWRITTEN),
    Mutant(SUMS, "index.dtype.itemsize < 4", "index.dtype.itemsize < 1", "tests/test_narrow.py -k from_the_end"),
    Mutant(SUMS, "labels[side][axes.index(i)]", "labels[side][axes[i]]", REWRITTEN),
    Mutant(ALGEBRA, '0.5: "sqrt", -0.5: "rsqrt"', '0.5: "rsqrt", -0.5: "sqrt"', REWRITTEN),
    Mutant(ALGEBRA, 'built("log1p", b if constant_of(a) == 1 else a)', 'built("log1p", a if constant_of(a) == 1 else b)', REWRITTEN),
    Mutant(ALGEBRA, "return b if settled is False else a", "return a", REWRITTEN),
    Mutant(ALGEBRA, "return condition if yes else", "return condition if no else", REWRITTEN),
    Mutant(ALGEBRA, 'else built("subtract", b, a)', 'else built("subtract", a, b)', REWRITTEN),
    Mutant(ALGEBRA, "constant(first * divisor, value.dtype, value.shape)", "constant(first / divisor, value.dtype, value.shape)", REWRITTEN),
    Mutant(ALGEBRA, "return b if inside(value, \"add\") else built(\"negative\", b)", "return b", REWRITTEN),

    # Index arithmetic
    Mutant("codegen/index.py", "quotient = collect(whole, index.offset // divisor - shift)", "quotient = collect(whole, index.offset // divisor + shift)", INDEX),
    Mutant("codegen/index.py", "shift = max(0, -(index.bounds()[0] // divisor))", "shift = max(0, -index.bounds()[0] // divisor)", INDEX),
    Mutant("codegen/index.py", "if rest.bounds()[1] < modulus:", "if rest.bounds()[1] <= modulus:", INDEX),
    Mutant("codegen/index.py", "if rest.bounds()[1] < divisor:", "if rest.bounds()[1] <= divisor:", INDEX),
    Mutant("codegen/index.py", "coefficient * max(0, term_extent(term) - 1)", "coefficient * term_extent(term)", INDEX),
    Mutant("codegen/index.py", "// term.divisor + 1", "// term.divisor", INDEX),
    Mutant("codegen/index.py", "else modulo(quotient, size)", "else modulo(quotient, size + 1)", INDEX),
    Mutant("codegen/index.py", "and other == coefficient * inner.modulus", "and other >= coefficient * inner.modulus", INDEX),
    Mutant("codegen/index.py", "modulus = None if outer.modulus is None else outer.modulus * inner.modulus", "modulus = outer.modulus", INDEX),

    # Views as indices
    Mutant(NODES, "self.low <= low and high < self.high", "self.low <= low and high <= self.high", INDEX),
    Mutant(NODES, "i.scaled(-1) + (n - 1)", "i.scaled(-1) + n", f"{STRUCTURE} 'test_views and flip'"),
    Mutant(NODES, "floor_divide(i + (-low), step)", "floor_divide(i + low, step)", f"{STRUCTURE} 'test_views and pad'"),
    Mutant(NODES, "Guard(index[axis], 0, here.high)", "Guard(index[axis], 0, here.low)", f"{STRUCTURE} 'test_views and concat'"),
    Mutant(NODES, "inside = Guard(datum, 0, size)", "inside = Guard(datum, 0, size + 1)", f"{STRUCTURE} 'out_of_bounds'"),
    Mutant(NODES, "value, math.nan)", "value, 0.0)", f"{STRUCTURE} 'out_of_bounds'"),
    Mutant(NODES, "return strides if strides is not None else", "return", f"{STRUCTURE} 'views_of_arrays_that_lie_otherwise'"),
    Mutant(NODES, "low + (n - 1) * step + 1 if n else low, step", "low + n * step if n else low, step", f"{STRUCTURE} 'test_views and pad'",
           "the guard also asks for multiples of the step, of which none lies between the two ends"),
    Mutant(NODES, "tuple(index[operation.axes.index(axis)]", "tuple(index[operation.axes[axis]]", f"{STRUCTURE} 'test_views'"),

    # The text of kernels
    Mutant(POSITIONS, '{self._masks[axis]} = {name} < {self.size(axis)}', '{self._masks[axis]} = {name} <= {self.size(axis)}', f"{STRUCTURE} 'test_reductions and sum'"),
    Mutant(POSITIONS, 'parts += [f"({text} < {stop})"]', 'parts += [f"({text} <= {stop})"]', f"{STRUCTURE} 'test_views'"),
    Mutant(POSITIONS, 'parts = [f"({text} >= {first})"]', 'parts = [f"({text} > {first})"]', f"{STRUCTURE} 'test_views'"),
    Mutant(POSITIONS, "abs(number) < LIMIT", "abs(number) < 2 * LIMIT", INDEX),
    Mutant(POSITIONS, "return axis.size + axis.block * (axis.programs if axis.role == \"split\" else 1) >= LIMIT", "return axis.size >= LIMIT", INDEX),
    Mutant(POSITIONS, "% {whole_number(term.modulus)})", "% {whole_number(term.modulus + 1)})", f"{STRUCTURE} 'views_of_views or test_views'"),
    Mutant(POSITIONS, 'stride = f"{count} * {step}" if step else count', "stride = step or count", "tests/test_split.py -k parts_of_rows"),
    Mutant(POSITIONS, "* {step} - {step} - {start}", "* {step} - {start}", f"{STRUCTURE} 'running_sums_in_use'"),
    Mutant(POSITIONS, 'return f"tl.minimum({self._starts[loop]} + {self.block(loop)}, {self.size(loop)})"', 'return f"({self._starts[loop]} + {self.block(loop)})"', "tests/test_riding.py -k 'variance'"),
    Mutant(EXPRESSIONS, '(node.detail[0] == "sum" and self.zero_outside', "(self.zero_outside", f"{STRUCTURE} 'test_reductions'"),
    Mutant(EXPRESSIONS, 'frozenset(("add", ', 'frozenset(("exp", "add", ', f"{STRUCTURE} 'test_reductions and logsumexp'"),
    Mutant(EXPRESSIONS, "'float(\"nan\")' if gathered else zero(access.buffer.dtype)", "zero(access.buffer.dtype)", f"{STRUCTURE} 'out_of_bounds'"),
    Mutant(EXPRESSIONS, "{before.expanded(axes)} + {running}", "{running}", f"{STRUCTURE} 'running_sums_in_use'"),
    Mutant(EXPRESSIONS, "', reverse=True' if backwards else ''", "''", f"{STRUCTURE} 'running_sums'"),
    Mutant(SPELLING, 'low if kind == "max" else high', '0 if kind == "max" else high', "tests/test_narrow.py -k least"),
    Mutant(SPELLING, "(-(2**bits) if", "(1 - 2**bits if", "tests/test_narrow.py -k least"),
    Mutant(SPELLING, 'else 0), 2**bits - 1', 'else 0), 2**bits - 2', "tests/test_narrow.py -k least"),
    Mutant(SPELLING, '"prod": 1,', '"prod": 0,', f"{STRUCTURE} 'test_reductions and prod'"),
    Mutant("codegen/printing/narrow.py", ">= 2**31 for x", ">= 2**40 for x", "tests/test_index.py -k compared"),

    # Edges of loops
    Mutant(EDGES, "limit = rest.plus(Sum((), 1))\n        inside", "limit = rest\n        inside", f"{INDEX} -k left_whole"),
    Mutant(EDGES, "tl.cdiv({inside}, {block}) * {block}", "{inside} // {block} * {block}", f"{INDEX} -k left_whole"),
    Mutant(EDGES, "Sum().plus(_largest(tiles, loop, line.scaled(-1), scope), -1)", "_largest(tiles, loop, line, scope)", f"{INDEX} -k left_whole"),
    Mutant(EDGES, "high.limit.plus(Sum((), 1)).text() if high.step == 1", "high.limit.text() if high.step == 1", f"{INDEX} -k left_whole"),
    Mutant(EDGES, "first.plus(block) if step > 0 else first, step", "first, step", f"{INDEX} -k left_whole"),
    Mutant("codegen/masks/whole.py", "line.scaled(-1) + -1", "line.scaled(-1) + 1", "tests/test_whole.py -k 'right or bit'"),

    # What programs leave for each other
    Mutant("codegen/partials.py", 'FOLDED = ("sum", "max", "min", "prod")', 'FOLDED = ("sum", "max", "min", "prod", "argmax")', "tests/test_split.py tests/test_kernels_structure.py -k 'loop_or_split or parts_of'"),
    Mutant("codegen/scattered.py", "Access(store.buffer, index, (Guard(number, 0, size),))", "Access(store.buffer, index, ())", "tests/test_atomics.py"),
    Mutant("codegen/searches.py", "np.array_equal(node.detail.numpy(x, y), x == y)", "True", "tests/test_searches.py"),
    Mutant(ONLINE, '{"max": -furthest, "min": furthest, "": 0.0}', '{"max": furthest, "min": -furthest, "": 0.0}', "tests/test_riding.py -k 'test_results'"),

    # What happens at a call
    Mutant("runtime/cache.py", "status.st_mode & 0o022", "status.st_mode & 0o002", CACHE),
    Mutant("runtime/cache.py", "if hashlib.sha256(data).hexdigest() != expected:", "if False:", CACHE),
    Mutant("runtime/cache.py", 'len(data).to_bytes(8, "little") + data', "data", CACHE),
    Mutant("runtime/cache.py", "if os.path.samestat(os.lstat(folder), os.fstat(entry)):", "if True:", CACHE),
    Mutant("runtime/plan.py", "repr(wrt), repr(device), repr(budget))", "repr(wrt), repr(budget))", "tests/test_compile.py tests/test_small.py -k 'mixed_up or kept_apart'"),
    Mutant("runtime/plan.py", 'digest("plan", FORMAT, compiler_state(), str(graph), inputs, repr(wrt)', 'digest("plan", FORMAT, compiler_state(), str(graph), inputs, ""', "tests/test_compile.py -k 'agree or warm or mixed_up or torch_in'"),
    Mutant("runtime/wire.py", "min(size, 1) if stride == 0 else size", "size", "tests/test_workers.py -k 'expanded or cross'"),
    Mutant("runtime/closure.py", "repr(value) if kind is float else value", "value", "tests/test_closure.py tests/test_compile.py -k 'changed or numbers or zero'"),
    Mutant("runtime/closure.py", "self.key(function.__defaults__), self.key(function.__kwdefaults__)", "()", "tests/test_closure.py tests/test_compile.py -k 'changed or seen or apart'"),
    Mutant("runtime/tape.py", "results[place] = to_torch(gradient, device)", "results[len(results) - 1 - place] = to_torch(gradient, device)", "tests/test_tape.py tests/test_compile.py -k 'torch'"),
    Mutant("runtime/build.py", 'r"(\\d+) bytes spill stores"', 'r"(\\d+) bytes stack frame"', "tests/test_workers.py -k spills"),
    Mutant("runtime/libdevice.py", "x.dtype.type(0.5), x.dtype.type(0))", "x.dtype.type(0.5), x.dtype.type(1))", "tests/test_repairs.py"),
    Mutant("runtime/execute.py", "arrays if kind == \"input\" else results", "results if kind == \"input\" else arrays", "tests/test_compile.py -k 'torch_in'"),
)
# fmt: on
