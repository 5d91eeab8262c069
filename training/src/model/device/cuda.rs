//! Our kernels on a CUDA device, compiled there when they are first asked for, and products that are added to what is there.

use std::sync::OnceLock;

use candle_core::cuda_backend::cudarc::cublas::{result::gemm_strided_batched_ex, sys};
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::cudarc::nvrtc;
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{DType, Result, Storage, Tensor, bail};
use half::bf16;

/// Threads of a block.
const THREADS: u32 = 256;

/// What a kernel is called with.
pub(super) enum Arg<'a> {
    /// The address of a contiguous tensor's elements.
    Tensor(&'a Tensor),
    Int(i32),
    Long(u64),
    Unsigned(u32),
    Float(f32),
}

/// How many blocks.
#[derive(Clone, Copy)]
pub(super) enum Grid {
    /// One for each row.
    Rows(usize),
    /// As many as give every `V` of so many elements a thread.
    Elements(usize),
    /// As many as give each of so many elements a thread.
    Single(usize),
}

/// Elements that a thread reads at once: as many as 16 bytes hold where `width` allows it.
fn vector(dtype: DType, width: usize) -> Result<(&'static str, usize)> {
    Ok(match dtype {
        DType::F32 if width.is_multiple_of(4) => ("f32x4", 4),
        DType::F32 => ("f32x1", 1),
        DType::BF16 if width.is_multiple_of(8) => ("bf16x8", 8),
        DType::BF16 => ("bf16x1", 1),
        other => bail!("there are no kernels for {other:?}"),
    })
}

/// Runs the kernel `name` of a type, whose rows are `width` elements wide. What it writes must be a new tensor, or one that is
/// nobody else's.
pub(super) fn launch(name: &str, dtype: DType, width: usize, grid: Grid, args: &[Arg<'_>]) -> Result<()> {
    let (kind, count) = vector(dtype, width)?;
    let blocks = match grid {
        Grid::Rows(rows) => rows,
        Grid::Elements(elements) => elements.div_ceil(count * THREADS as usize),
        Grid::Single(elements) => elements.div_ceil(THREADS as usize),
    };
    if blocks == 0 {
        return Ok(());
    }
    let first = args.iter().find_map(|arg| if let Arg::Tensor(tensor) = arg { Some(*tensor) } else { None });
    let Some(first) = first else { bail!("{name} has nothing to work on") };
    let device = first.device().as_cuda_device()?;
    let function = device.get_or_load_custom_func(&format!("{name}_{kind}"), "spar_training", ptx()?)?;
    // Addresses and numbers live until the launch, which copies them.
    let addresses: Vec<u64> = args
        .iter()
        .map(|arg| if let Arg::Tensor(tensor) = arg { address(tensor, device) } else { Ok(0) })
        .collect::<Result<_>>()?;
    let mut builder = function.builder();
    for (arg, address) in args.iter().zip(&addresses) {
        match arg {
            Arg::Tensor(_) => builder.arg(address),
            Arg::Int(x) => builder.arg(x),
            Arg::Long(x) => builder.arg(x),
            Arg::Unsigned(x) => builder.arg(x),
            Arg::Float(x) => builder.arg(x),
        };
    }
    let Ok(blocks) = u32::try_from(blocks) else { bail!("{name} has too many rows") };
    let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
    #[expect(unsafe_code, reason = "kernels take addresses; the tensors outlive the launch in the stream's order")]
    unsafe {
        builder.launch(config).w()?;
    }
    Ok(())
}

/// A tensor of that shape whose elements are still to be written.
pub(super) fn unwritten(shape: &[usize], dtype: DType, like: &Tensor) -> Result<Tensor> {
    #[expect(unsafe_code, reason = "the caller's kernel writes every element")]
    unsafe {
        Tensor::empty(shape, dtype, like.device())
    }
}

fn ptx() -> Result<&'static str> {
    static PTX: OnceLock<std::result::Result<String, String>> = OnceLock::new();
    let compiled = PTX.get_or_init(|| {
        let options = nvrtc::CompileOptions { options: vec!["--std=c++17".into()], ..Default::default() };
        nvrtc::compile_ptx_with_opts(include_str!("kernels.cu"), options)
            .map(|ptx| ptx.to_src())
            .map_err(|error| format!("the training kernels do not compile: {error:?}"))
    });
    compiled.as_deref().map_err(|error| candle_core::Error::Msg(error.clone()))
}

/// Where a tensor's elements are.
fn address(tensor: &Tensor, device: &CudaDevice) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("a tensor is not on the device") };
    let stream = device.cuda_stream();
    let offset = (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64;
    let start = match tensor.dtype() {
        DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0,
        DType::BF16 => storage.as_cuda_slice::<bf16>()?.device_ptr(&stream).0,
        DType::U32 => storage.as_cuda_slice::<u32>()?.device_ptr(&stream).0,
        other => bail!("there are no kernels for {other:?}"),
    };
    Ok(start + offset)
}

/// `c += a · b` in place: `a` `(m, k)` and `b` `(k, n)` of one type, rows or columns of which are neighbours; `c` `(m, n)`,
/// contiguous, of the same type or `f32`, and nobody else's.
pub(super) fn add_product(c: &Tensor, a: &Tensor, b: &Tensor) -> Result<()> {
    let (m, k) = a.dims2()?;
    let n = b.dim(1)?;
    if c.dims() != [m, n] || b.dim(0)? != k || !c.is_contiguous() || a.dtype() != b.dtype() {
        bail!("cannot add {:?} · {:?} to {:?}", a.shape(), b.shape(), c.shape());
    }
    if m * n * k == 0 {
        return Ok(());
    }
    let device = c.device().as_cuda_device()?;
    let kind = |tensor: &Tensor| match tensor.dtype() {
        DType::F32 => Ok(sys::cudaDataType_t::CUDA_R_32F),
        DType::BF16 => Ok(sys::cudaDataType_t::CUDA_R_16BF),
        other => bail!("there are no products of {other:?}"),
    };
    // To cuBLAS, whose matrices are stored by columns, these are the transposes: cᵀ += bᵀ · aᵀ.
    let way = |tensor: &Tensor| match *tensor.stride() {
        [row, 1] => Ok((sys::cublasOperation_t::CUBLAS_OP_N, row as i32)),
        [1, column] => Ok((sys::cublasOperation_t::CUBLAS_OP_T, column as i32)),
        _ => bail!("neither rows nor columns are neighbours in {:?}", tensor.layout()),
    };
    let ((way_a, lead_a), (way_b, lead_b)) = (way(a)?, way(b)?);
    let (at_a, at_b, at_c) = (address(a, device)?, address(b, device)?, address(c, device)?);
    let (kind_a, kind_c) = (kind(a)?, kind(c)?);
    let one = 1f32;
    let one = std::ptr::from_ref(&one).cast();
    let blas = device.cublas_handle();
    #[expect(unsafe_code, reason = "cuBLAS takes addresses; sizes and strides are the tensors'")]
    unsafe {
        gemm_strided_batched_ex(
            *blas.handle(),
            way_b,
            way_a,
            n as i32,
            m as i32,
            k as i32,
            one,
            at_b as *const _,
            kind_a,
            lead_b,
            0,
            at_a as *const _,
            kind_a,
            lead_a,
            0,
            one,
            at_c as *mut _,
            kind_c,
            n as i32,
            0,
            1,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
        )
        .w()
    }
}
