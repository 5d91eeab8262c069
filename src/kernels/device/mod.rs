//! Extends candle on CUDA devices: custom kernels, compiled on the device at first use, and products that are added to the old values or
//! have wider results than operands.

use std::sync::OnceLock;

use candle_core::cuda_backend::cudarc::cublas::{result::gemm_strided_batched_ex, sys};
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, LaunchConfig, PushKernelArg, sys as driver};
use candle_core::cuda_backend::cudarc::nvrtc;
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{DType, Device, Result, Storage, Tensor, bail};
use half::{bf16, f16};

/// Threads of a block.
pub const THREADS: usize = 256;

/// Bytes of shared memory that a block may use without a driver setting.
const DEFAULT_SHARED_BYTES: usize = 48 << 10;

/// CUDA C++ that is compiled once, after the source shared by all kernels (`common.cu`).
pub struct Kernels {
    name: &'static str,
    source: &'static str,
    /// The oldest supported device, such as `compute_80`; `None` means the compiler's own oldest.
    oldest: Option<&'static str>,
    ptx: OnceLock<std::result::Result<String, String>>,
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub enum Arg<'a> {
    /// The address of a tensor's first element.
    Tensor(&'a Tensor),
    /// A kernel's `int` argument.
    Int(usize),
    /// A kernel's `unsigned long long` argument.
    Long(u64),
    /// A kernel's `unsigned` argument.
    Unsigned(u32),
    /// A kernel's `float` argument.
    Float(f64),
}

impl Kernels {
    /// Declares kernels with a unique name and their source.
    #[must_use]
    pub const fn new(name: &'static str, source: &'static str) -> Self {
        Self { name, source, oldest: None, ptx: OnceLock::new() }
    }

    /// Marks kernels that need features of devices from `oldest` on, such as `compute_80`.
    #[must_use]
    pub const fn since(mut self, oldest: &'static str) -> Self {
        self.oldest = Some(oldest);
        self
    }

    /// Runs a function in `blocks` blocks of [`THREADS`] threads. Its output must be a new tensor, or one that nothing else holds.
    ///
    /// # Errors
    /// Fails if the source does not compile, an argument is on another device, or the device fails.
    pub fn launch(&self, function: &str, blocks: usize, args: &[Arg<'_>]) -> Result<()> {
        self.launch_sharing(function, blocks, 0, args)
    }

    /// Runs a function like [`Kernels::launch`], with `shared` bytes of shared memory per block in addition to what it declares.
    ///
    /// # Errors
    /// Fails like [`Kernels::launch`], and if the device has less shared memory.
    pub fn launch_sharing(&self, function: &str, blocks: usize, shared: usize, args: &[Arg<'_>]) -> Result<()> {
        if blocks == 0 {
            return Ok(());
        }
        let tensor = args.iter().find_map(|arg| if let Arg::Tensor(tensor) = arg { Some(*tensor) } else { None });
        let Some(tensor) = tensor else { bail!("{function} has no tensor argument") };
        let device = tensor.device().as_cuda_device()?;
        let loaded = device.get_or_load_custom_func(function, self.name, self.ptx()?)?;
        if shared > DEFAULT_SHARED_BYTES {
            let most = driver::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            loaded.set_attribute(most, shared as i32).w()?;
        }
        // The values in the types that the kernel reads. They stay here until the launch has copied them.
        enum Value {
            Long(u64),
            Int(i32),
            Unsigned(u32),
            Float(f32),
        }
        let value = |arg: &Arg<'_>| {
            Ok(match *arg {
                Arg::Tensor(tensor) => Value::Long(address(tensor, device)?),
                Arg::Int(x) => match i32::try_from(x) {
                    Ok(x) => Value::Int(x),
                    Err(_) => bail!("{x} is too large for {function}"),
                },
                Arg::Long(x) => Value::Long(x),
                Arg::Unsigned(x) => Value::Unsigned(x),
                Arg::Float(x) => Value::Float(x as f32),
            })
        };
        let values = args.iter().map(value).collect::<Result<Vec<_>>>()?;
        let mut builder = loaded.builder();
        for value in &values {
            match value {
                Value::Long(x) => builder.arg(x),
                Value::Int(x) => builder.arg(x),
                Value::Unsigned(x) => builder.arg(x),
                Value::Float(x) => builder.arg(x),
            };
        }
        let Ok(blocks) = u32::try_from(blocks) else { bail!("{function} has too many blocks") };
        let config = LaunchConfig {
            grid_dim: (blocks, 1, 1),
            block_dim: (THREADS as u32, 1, 1),
            shared_mem_bytes: shared as u32,
        };
        #[expect(unsafe_code, reason = "kernels take addresses; memory is freed after them in the stream's order")]
        // SAFETY: arguments have the kernel's types; tensors are alive, and memory that is freed later is freed after the kernel.
        unsafe {
            builder.launch(config).w()?;
        }
        Ok(())
    }

    fn ptx(&self) -> Result<&str> {
        let compiled = self.ptx.get_or_init(|| {
            let options = vec!["--std=c++17".into()];
            let options = nvrtc::CompileOptions { options, arch: self.oldest, ..Default::default() };
            let source = format!("{}\n{}", include_str!("common.cu"), self.source);
            nvrtc::compile_ptx_with_opts(source, options)
                .map(|ptx| ptx.to_src())
                .map_err(|error| format!("the {} kernels do not compile: {error:?}", self.name))
        });
        compiled.as_deref().map_err(|error| candle_core::Error::Msg(error.clone()))
    }
}

/// Sets the pool's release threshold: up to `bytes` of freed memory stay cached at a synchronisation instead of going back to
/// the driver.
///
/// # Errors
/// Fails if the device fails.
pub fn keep_memory(device: &Device, bytes: u64) -> Result<()> {
    let (pool, mut bytes) = (pool(device)?, bytes);
    let attribute = driver::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    #[expect(unsafe_code, reason = "the driver takes a pointer to a number")]
    // SAFETY: the pool belongs to the driver, and the pointer is to a variable of the attribute's type.
    unsafe {
        driver::cuMemPoolSetAttribute(pool, attribute, (&raw mut bytes).cast()).result().w()
    }
}

/// Synchronises the device and trims the pool to `keep` bytes. The threshold of [`keep_memory`] alone kept the whole of a dropped model.
///
/// # Errors
/// Fails if the device fails.
pub fn give_memory_back(device: &Device, keep: u64) -> Result<()> {
    let pool = pool(device)?;
    device.synchronize()?;
    #[expect(unsafe_code, reason = "the driver takes a pointer to a number")]
    // SAFETY: the pool belongs to the driver; memory that is in use stays.
    unsafe {
        driver::cuMemPoolTrimTo(pool, keep as usize).result().w()
    }
}

/// The pool from which this thread's tensors on the device are allocated.
fn pool(device: &Device) -> Result<driver::CUmemoryPool> {
    let context = device.as_cuda_device()?.cuda_stream().context().clone();
    context.bind_to_thread().w()?;
    let mut pool = std::ptr::null_mut();
    #[expect(unsafe_code, reason = "the driver writes the address of its pool")]
    // SAFETY: the pointer is to a variable of the type that the driver writes.
    unsafe {
        driver::cuDeviceGetDefaultMemPool(&raw mut pool, context.cu_device()).result().w()?
    };
    Ok(pool)
}

/// Whether a device has the matrix units, copies and other instructions of compute capability `major` (`8` for Ampere).
///
/// # Errors
/// Fails if the device fails.
pub fn has_capability(device: &Device, major: i32) -> Result<bool> {
    Ok(device.as_cuda_device()?.cuda_stream().context().compute_capability().w()?.0 >= major)
}

/// A tensor of the given shape on the device of `like`, whose elements a kernel must still write.
///
/// # Errors
/// Fails if the device has no memory left.
pub fn unwritten(shape: &[usize], dtype: DType, like: &Tensor) -> Result<Tensor> {
    #[expect(unsafe_code, reason = "the caller's kernel writes every element")]
    // SAFETY: every bit pattern of these types is a number, and a kernel writes each element before it is read.
    unsafe {
        Tensor::empty(shape, dtype, like.device())
    }
}

/// The address of a tensor's first element.
fn address(tensor: &Tensor, device: &CudaDevice) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("a tensor is not on the device") };
    let stream = device.cuda_stream();
    let offset = (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64;
    let start = match tensor.dtype() {
        DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0,
        DType::F16 => storage.as_cuda_slice::<f16>()?.device_ptr(&stream).0,
        DType::BF16 => storage.as_cuda_slice::<bf16>()?.device_ptr(&stream).0,
        DType::U32 => storage.as_cuda_slice::<u32>()?.device_ptr(&stream).0,
        other => bail!("there are no kernels for {other:?}"),
    };
    Ok(start + offset)
}

/// Computes `a · b` with sums in `f32`; the result has type `dtype`. `a` `(…, m, k)` and `b` `(…, k, n)` are as in [`add_product`].
///
/// # Errors
/// Fails like [`add_product`].
pub fn product(a: &Tensor, b: &Tensor, dtype: DType) -> Result<Tensor> {
    let mut shape = a.dims().to_vec();
    if let (Some(last), Some(columns)) = (shape.last_mut(), b.dims().last()) {
        *last = *columns;
    }
    let c = unwritten(&shape, dtype, a)?;
    multiply(&c, a, b, 0.0)?;
    Ok(c)
}

/// Computes `c += a · b` in place. `a` `(…, m, k)` and `b` `(…, k, n)` have one type; their matrices follow one another, and their rows or
/// columns are contiguous. `c` `(…, m, n)` is contiguous, has the same type or `f32`, and is held by nothing else.
///
/// # Errors
/// Fails if the shapes or types do not fit, or if the device fails.
pub fn add_product(c: &Tensor, a: &Tensor, b: &Tensor) -> Result<()> {
    multiply(c, a, b, 1.0)
}

fn multiply(c: &Tensor, a: &Tensor, b: &Tensor, beta: f32) -> Result<()> {
    let rank = a.rank();
    let ([.., m, k], [.., inner, n]) = (a.dims(), b.dims()) else { bail!("products need matrices") };
    let (m, k, n) = (*m, *k, *n);
    let batch = &a.dims()[..rank - 2];
    let fits = b.rank() == rank && b.dims()[..rank - 2] == *batch && *inner == k && a.dtype() == b.dtype();
    if !fits || c.dims() != [batch, &[m, n]].concat() || !c.is_contiguous() {
        bail!("cannot multiply {:?} and {:?} into {:?}", a.layout(), b.layout(), c.layout());
    }
    let count: usize = batch.iter().product();
    if m * n * count == 0 {
        return Ok(());
    }
    let kind = |tensor: &Tensor| match tensor.dtype() {
        DType::F32 => Ok(sys::cudaDataType_t::CUDA_R_32F),
        DType::F16 => Ok(sys::cudaDataType_t::CUDA_R_16F),
        DType::BF16 => Ok(sys::cudaDataType_t::CUDA_R_16BF),
        other => bail!("there are no products of {other:?}"),
    };
    // cuBLAS stores matrices by columns, so it sees the transposes: cᵀ += bᵀ · aᵀ.
    let way = |tensor: &Tensor| {
        let size = tensor.dims()[rank - 2] * tensor.dims()[rank - 1];
        let (outer, own) = tensor.stride().split_at(rank - 2);
        let mut expected = size;
        for (&stride, &dim) in outer.iter().zip(batch).rev() {
            if dim > 1 && stride != expected {
                bail!("the matrices of {:?} do not follow each other", tensor.layout());
            }
            expected *= dim;
        }
        match *own {
            [row, 1] => Ok((sys::cublasOperation_t::CUBLAS_OP_N, row as i32, size as i64)),
            [1, column] => Ok((sys::cublasOperation_t::CUBLAS_OP_T, column as i32, size as i64)),
            _ => bail!("neither rows nor columns are neighbours in {:?}", tensor.layout()),
        }
    };
    let device = c.device().as_cuda_device()?;
    let ((way_a, lead_a, step_a), (way_b, lead_b, step_b)) = (way(a)?, way(b)?);
    let (at_a, at_b, at_c) = (address(a, device)?, address(b, device)?, address(c, device)?);
    let (kind_a, kind_c) = (kind(a)?, kind(c)?);
    let alpha = 1f32;
    let blas = device.cublas_handle();
    #[expect(unsafe_code, reason = "cuBLAS takes addresses; sizes and strides are the tensors'")]
    // SAFETY: shapes were compared above, and in the stream's order the tensors are alive until after the product.
    unsafe {
        gemm_strided_batched_ex(
            *blas.handle(),
            way_b,
            way_a,
            n as i32,
            m as i32,
            k as i32,
            std::ptr::from_ref(&alpha).cast(),
            at_b as *const _,
            kind_a,
            lead_b,
            step_b,
            at_a as *const _,
            kind_a,
            lead_a,
            step_a,
            std::ptr::from_ref(&beta).cast(),
            at_c as *mut _,
            kind_c,
            n as i32,
            (m * n) as i64,
            count as i32,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
        )
        .w()
    }
}
