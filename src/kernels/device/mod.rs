//! What candle lacks on a CUDA device: kernels of our own, compiled there when they are first asked for, and products that are
//! added to the old values or come out wider than their factors.

use std::sync::OnceLock;

use candle_core::cuda_backend::cudarc::cublas::{result::gemm_strided_batched_ex, sys};
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, LaunchConfig, PushKernelArg, sys as driver};
use candle_core::cuda_backend::cudarc::nvrtc;
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{DType, Device, Result, Storage, Tensor, bail};
use half::{bf16, f16};

/// Threads of a block.
pub const THREADS: usize = 256;

/// Bytes that a block may share without a setting of the driver.
const UNASKED: usize = 48 << 10;

/// CUDA C++ that is compiled once, after what all kernels share (`common.cu`).
pub struct Kernels {
    name: &'static str,
    source: &'static str,
    /// The oldest device they run on, as `compute_80`; the compiler's own oldest where that is none.
    oldest: Option<&'static str>,
    ptx: OnceLock<std::result::Result<String, String>>,
}

/// What a kernel is called with.
#[derive(Clone, Copy)]
pub enum Arg<'a> {
    /// The address of a tensor's first element.
    Tensor(&'a Tensor),
    /// A kernel's `int` argument.
    Int(usize),
    /// `unsigned long long`
    Long(u64),
    /// A kernel's `unsigned` argument.
    Unsigned(u32),
    /// A kernel's `float` argument.
    Float(f64),
}

impl Kernels {
    /// Kernels of a source, under a name that no other source has.
    #[must_use]
    pub const fn new(name: &'static str, source: &'static str) -> Self {
        Self { name, source, oldest: None, ptx: OnceLock::new() }
    }

    /// Marks kernels that use what devices have since `oldest`, such as `compute_80`.
    #[must_use]
    pub const fn since(mut self, oldest: &'static str) -> Self {
        self.oldest = Some(oldest);
        self
    }

    /// Runs a function in this many blocks of [`THREADS`] threads. What it writes must be a new tensor, or one that is nobody
    /// else's.
    ///
    /// # Errors
    /// The source does not compile here, an argument is elsewhere, or the device fails.
    pub fn launch(&self, function: &str, blocks: usize, args: &[Arg<'_>]) -> Result<()> {
        self.launch_sharing(function, blocks, 0, args)
    }

    /// [`Kernels::launch`] of blocks that share this many bytes in addition to what the function declares.
    ///
    /// # Errors
    /// As [`Kernels::launch`], or the device has fewer.
    pub fn launch_sharing(&self, function: &str, blocks: usize, shared: usize, args: &[Arg<'_>]) -> Result<()> {
        if blocks == 0 {
            return Ok(());
        }
        let tensor = args.iter().find_map(|arg| if let Arg::Tensor(tensor) = arg { Some(*tensor) } else { None });
        let Some(tensor) = tensor else { bail!("{function} has nothing to work on") };
        let device = tensor.device().as_cuda_device()?;
        let loaded = device.get_or_load_custom_func(function, self.name, self.ptx()?)?;
        if shared > UNASKED {
            let most = driver::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            loaded.set_attribute(most, shared as i32).w()?;
        }
        // As the kernel reads them, where they stay until the launch has copied them.
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
        #[expect(
            unsafe_code,
            reason = "kernels take addresses; what is freed is freed after them in the stream's order"
        )]
        // SAFETY: arguments are of the kernel's kinds; tensors are alive, and what is freed later is freed after the kernel.
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
/// The device fails.
pub fn keep_memory(device: &Device, bytes: u64) -> Result<()> {
    let (pool, mut bytes) = (pool(device)?, bytes);
    let attribute = driver::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    #[expect(unsafe_code, reason = "the driver takes a pointer to a number")]
    // SAFETY: the pool is the driver's own, and the pointer is to a variable of the kind that this attribute has.
    unsafe {
        driver::cuMemPoolSetAttribute(pool, attribute, (&raw mut bytes).cast()).result().w()
    }
}

/// Synchronises the device and trims the pool to `but` bytes. The threshold of [`keep_memory`] alone kept the whole of a dropped
/// model.
///
/// # Errors
/// The device fails.
pub fn give_memory_back(device: &Device, but: u64) -> Result<()> {
    let pool = pool(device)?;
    device.synchronize()?;
    #[expect(unsafe_code, reason = "the driver takes a pointer to a number")]
    // SAFETY: the pool is the driver's own; what is in use stays.
    unsafe {
        driver::cuMemPoolTrimTo(pool, but as usize).result().w()
    }
}

/// The pool in which this thread's tensors of the device are allocated.
fn pool(device: &Device) -> Result<driver::CUmemoryPool> {
    let context = device.as_cuda_device()?.cuda_stream().context().clone();
    context.bind_to_thread().w()?;
    let mut pool = std::ptr::null_mut();
    #[expect(unsafe_code, reason = "the driver is asked for its pool")]
    // SAFETY: the pointer is to a variable of the kind that the driver writes.
    unsafe {
        driver::cuDeviceGetDefaultMemPool(&raw mut pool, context.cu_device()).result().w()?
    };
    Ok(pool)
}

/// Whether a device has the matrix units, copies and other instructions of so large a compute capability (`8` for Ampere).
///
/// # Errors
/// The device fails.
pub fn has_capability(device: &Device, major: i32) -> Result<bool> {
    Ok(device.as_cuda_device()?.cuda_stream().context().compute_capability().w()?.0 >= major)
}

/// A tensor of that shape on the device of `like`, whose elements a kernel is still to write.
///
/// # Errors
/// The device has no room.
pub fn unwritten(shape: &[usize], dtype: DType, like: &Tensor) -> Result<Tensor> {
    #[expect(unsafe_code, reason = "the caller's kernel writes every element")]
    // SAFETY: every value of these types is a number, and a kernel writes it before it is read.
    unsafe {
        Tensor::empty(shape, dtype, like.device())
    }
}

/// Where a tensor's first element is.
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

/// `a · b` with sums in `f32`, which stay so where `dtype` is `f32`: `a` `(…, m, k)` and `b` `(…, k, n)` as in [`add_product`].
///
/// # Errors
/// As [`add_product`].
pub fn product(a: &Tensor, b: &Tensor, dtype: DType) -> Result<Tensor> {
    let mut shape = a.dims().to_vec();
    if let (Some(last), Some(columns)) = (shape.last_mut(), b.dims().last()) {
        *last = *columns;
    }
    let c = unwritten(&shape, dtype, a)?;
    multiply(&c, a, b, 0.0)?;
    Ok(c)
}

/// `c += a · b` in place: `a` `(…, m, k)` and `b` `(…, k, n)` of one type, whose matrices follow each other and have rows or columns
/// of neighbours; `c` `(…, m, n)`, contiguous, of the same type or `f32`, and held by nothing else.
///
/// # Errors
/// They do not fit together, or the device fails.
pub fn add_product(c: &Tensor, a: &Tensor, b: &Tensor) -> Result<()> {
    multiply(c, a, b, 1.0)
}

fn multiply(c: &Tensor, a: &Tensor, b: &Tensor, beta: f32) -> Result<()> {
    let rank = a.rank();
    let ([.., m, k], [.., inner, n]) = (a.dims(), b.dims()) else { bail!("products are of matrices") };
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
    // To cuBLAS, whose matrices are stored by columns, these are the transposes: cᵀ += bᵀ · aᵀ.
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
    let one = 1f32;
    let blas = device.cublas_handle();
    #[expect(unsafe_code, reason = "cuBLAS takes addresses; sizes and strides are the tensors'")]
    // SAFETY: shapes were compared above, and tensors are alive until after the product in the stream's order.
    unsafe {
        gemm_strided_batched_ex(
            *blas.handle(),
            way_b,
            way_a,
            n as i32,
            m as i32,
            k as i32,
            std::ptr::from_ref(&one).cast(),
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
