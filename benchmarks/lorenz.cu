// What one writes by hand: one thread a trajectory of the Lorenz system, everything in registers.
//
// Compiled by NVRTC with -DREAL=float or -DREAL=double (benchmarks/baseline.py); a test compiles the
// same source as C++ and compares its numbers with ours, so that no GPU is needed to trust it.
#ifndef REAL
#define REAL double
#endif
typedef REAL real;

struct State {
    real x, y, z;
};

static __device__ __forceinline__ State slope(State u, real rho) {
    const real sigma = 10, beta = real(8) / 3;
    State d;
    d.x = sigma * (u.y - u.x);
    d.y = u.x * (rho - u.z) - u.y;
    d.z = u.x * u.y - beta * u.z;
    return d;
}

static __device__ __forceinline__ State plus(State u, real a, State k) {
    u.x = fma(a, k.x, u.x);
    u.y = fma(a, k.y, u.y);
    u.z = fma(a, k.z, u.z);
    return u;
}

static __device__ __forceinline__ real weighed(real error, real before, real after, real tolerance) {
    real size = tolerance + tolerance * fmax(fabs(before), fabs(after));
    real ratio = error / size;
    return ratio * ratio;
}

#ifdef LORENZ_RK4
// Classical Runge-Kutta, `steps` steps of `h`. finals has shape (3, count).
extern "C" __global__ void lorenz_rk4(long long count, const real* rho, real h, int steps, real* finals) {
    long long run = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (run >= count) return;
    real p = rho[run];
    State u = {1, 0, 0};
    for (int step = 0; step < steps; ++step) {
        State a = slope(u, p);
        State b = slope(plus(u, h / 2, a), p);
        State c = slope(plus(u, h / 2, b), p);
        State d = slope(plus(u, h, c), p);
        u = plus(u, h / 6, a);
        u = plus(u, h / 3, b);
        u = plus(u, h / 3, c);
        u = plus(u, h / 6, d);
    }
    finals[run] = u.x;
    finals[count + run] = u.y;
    finals[2 * count + run] = u.z;
}
#endif

#ifdef LORENZ_TSIT5
// Ch. Tsitouras, Runge-Kutta pairs of order 5(4), Comput. Math. Appl. 62 (2011) 770-775, with an
// integral controller. The coefficients are those of cubie_flow.integrators.tableaus, put in
// by benchmarks/baseline.py as A10 ... A54, B0 ... B5 (the last stage) and E0 ... E6.
extern "C" __global__ void lorenz_tsit5(long long count, const real* rho, real end, real tolerance, real* finals) {
    long long run = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (run >= count) return;
    real p = rho[run];
    State u = {1, 0, 0};
    State k0 = slope(u, p);
    real t = 0, h = real(1e-3);
    for (int attempt = 0; attempt < 1000000 && t < end; ++attempt) {
        bool last = t + h >= end;
        if (last) h = end - t;
        State k1 = slope(plus(u, h * real(A10), k0), p);
        State k2 = slope(plus(plus(u, h * real(A20), k0), h * real(A21), k1), p);
        State k3 = slope(plus(plus(plus(u, h * real(A30), k0), h * real(A31), k1), h * real(A32), k2), p);
        State v = plus(plus(u, h * real(A40), k0), h * real(A41), k1);
        State k4 = slope(plus(plus(v, h * real(A42), k2), h * real(A43), k3), p);
        v = plus(plus(u, h * real(A50), k0), h * real(A51), k1);
        v = plus(plus(v, h * real(A52), k2), h * real(A53), k3);
        State k5 = slope(plus(v, h * real(A54), k4), p);
        v = plus(plus(u, h * real(B0), k0), h * real(B1), k1);
        v = plus(plus(v, h * real(B2), k2), h * real(B3), k3);
        v = plus(plus(v, h * real(B4), k4), h * real(B5), k5);
        State k6 = slope(v, p);
        State e = {0, 0, 0};
        e = plus(plus(e, h * real(E0), k0), h * real(E1), k1);
        e = plus(plus(e, h * real(E2), k2), h * real(E3), k3);
        e = plus(plus(plus(e, h * real(E4), k4), h * real(E5), k5), h * real(E6), k6);
        real square = (weighed(e.x, u.x, v.x, tolerance) + weighed(e.y, u.y, v.y, tolerance) +
                       weighed(e.z, u.z, v.z, tolerance)) / 3;
        // error**(-1/5) of the root of `square`
        real factor = fmin(real(5), fmax(real(0.2), real(0.9) * pow(fmax(square, real(1e-20)), real(-0.1))));
        if (square <= 1) {
            t = last ? end : t + h;
            u = v;
            k0 = k6;
        }
        h *= factor;
    }
    finals[run] = u.x;
    finals[count + run] = u.y;
    finals[2 * count + run] = u.z;
}
#endif
