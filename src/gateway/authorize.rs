//! Third phase: the pure decisions of [`edge::admission`] over what was proved.
use edge::{
    Refusal,
    admission::{self, Access, Authorized, Proof},
};

use crate::authenticate::Proved;

/// Authenticates and authorizes.
pub(crate) fn authorize<'a>(access: &Access, proved: &'a Proved, now_ms: i64) -> Result<Authorized<'a>, Refusal> {
    let proof = match proved {
        Proved::Nothing => Proof::Nothing,
        Proved::Believed(believed) => Proof::Believed(&believed.identity),
        Proved::Refused(refusal) => Proof::Refused(*refusal),
    };
    let caller = admission::authenticate(access, proof, now_ms.div_euclid(1000))?;
    admission::authorize(access, caller)
}
