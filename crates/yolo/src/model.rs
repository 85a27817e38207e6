//! The network: a backbone that halves the picture five times, a neck that passes features down and up again, and a head that says for every
//! cell of three grids where an object would be and what it is.
//!
//! Layers are numbered as in the architecture's table, so that variables have the names of the official state dict
//! (`model.0.conv.weight`, ...).

mod block;
mod head;
mod norm;

use tch::Tensor;
use tch::nn::{Path, VarStore};

use crate::scale::Scale;
use block::{C2f, Conv, Sppf, upsample};
use head::Head;
pub use head::{Levels, REGRESSION_BINS, STRIDES};
pub use norm::Norms;

/// A YOLOv8 detection network.
#[derive(Debug)]
pub struct Yolo {
    scale: Scale,
    classes: i64,
    down: [Conv; 5],
    deep: [C2f; 4],
    pool: Sppf,
    neck: [C2f; 4],
    neck_down: [Conv; 2],
    head: Head,
    norms: Norms,
}

impl Yolo {
    /// A network for this many classes whose kernels are zero: see [`crate::network::Network`], which draws them. Its variables are added
    /// to `vs` under their official names.
    #[must_use]
    pub fn new(vs: &VarStore, scale: Scale, classes: i64) -> Self {
        let mut norms = Norms::default();
        let root = vs.root() / "model";
        let at = |layer: i64| -> Path<'_> { &root / layer };
        let c = |full| scale.channels(full);
        let [c64, c128, c256, c512, c1024] = [64, 128, 256, 512, 1024].map(c);
        let (few, many) = (scale.repeats(3), scale.repeats(6));
        let norms_ = &mut norms;
        let down = [
            Conv::new(&at(0), 3, c64, 3, 2, norms_),
            Conv::new(&at(1), c64, c128, 3, 2, norms_),
            Conv::new(&at(3), c128, c256, 3, 2, norms_),
            Conv::new(&at(5), c256, c512, 3, 2, norms_),
            Conv::new(&at(7), c512, c1024, 3, 2, norms_),
        ];
        let deep = [
            C2f::new(&at(2), c128, c128, few, true, norms_),
            C2f::new(&at(4), c256, c256, many, true, norms_),
            C2f::new(&at(6), c512, c512, many, true, norms_),
            C2f::new(&at(8), c1024, c1024, few, true, norms_),
        ];
        let pool = Sppf::new(&at(9), c1024, c1024, norms_);
        let neck = [
            C2f::new(&at(12), c1024 + c512, c512, few, false, norms_),
            C2f::new(&at(15), c512 + c256, c256, few, false, norms_),
            C2f::new(&at(18), c256 + c512, c512, few, false, norms_),
            C2f::new(&at(21), c512 + c1024, c1024, few, false, norms_),
        ];
        let neck_down = [Conv::new(&at(16), c256, c256, 3, 2, norms_), Conv::new(&at(19), c512, c512, 3, 2, norms_)];
        let head = Head::new(&at(22), [c256, c512, c1024], classes, norms_);
        Self { scale, classes, down, deep, pool, neck, neck_down, head, norms }
    }

    /// Its size.
    #[must_use]
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// Classes that it tells apart.
    #[must_use]
    pub fn classes(&self) -> i64 {
        self.classes
    }

    /// Its layers of batch normalisation.
    #[must_use]
    pub fn norms(&self) -> &Norms {
        &self.norms
    }

    /// What the head says of `images`, `[images, 3, height, width]` with values from 0 to 1 and sides that are multiples of 32. In training
    /// the layers of batch normalisation use the batch's own statistics and note them in [`Self::norms`]; the running ones stay as they are.
    #[must_use]
    pub fn forward(&self, images: &Tensor, train: bool) -> Levels {
        let [down0, down1, down2, down3, down4] = &self.down;
        let [deep0, deep1, deep2, deep3] = &self.deep;
        let x = down1.forward(&down0.forward(images, train), train);
        let x = deep0.forward(&x, train);
        let p3 = deep1.forward(&down2.forward(&x, train), train);
        let p4 = deep2.forward(&down3.forward(&p3, train), train);
        let x = deep3.forward(&down4.forward(&p4, train), train);
        let p5 = self.pool.forward(&x, train);

        let [neck0, neck1, neck2, neck3] = &self.neck;
        let [up0, up1] = &self.neck_down;
        let join = |a: &Tensor, b: &Tensor| Tensor::cat(&[a, b], 1);
        let n4 = neck0.forward(&join(&upsample(&p5), &p4), train);
        let n3 = neck1.forward(&join(&upsample(&n4), &p3), train);
        let n4 = neck2.forward(&join(&up0.forward(&n3, train), &n4), train);
        let n5 = neck3.forward(&join(&up1.forward(&n4, train), &p5), train);
        self.head.forward([&n3, &n4, &n5], train)
    }

    /// Boxes in pixels, `[images, anchors, 4]`, and the probability of every class, `[images, anchors, classes]`, for images as in
    /// [`Self::forward`].
    pub fn predict(&self, images: &Tensor) -> (Tensor, Tensor) {
        let _guard = tch::no_grad_guard();
        let levels = self.forward(images, false);
        (levels.boxes(), levels.scores.sigmoid())
    }
}
