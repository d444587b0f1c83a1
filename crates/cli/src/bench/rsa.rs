//! How many RSA-2048 signatures the cores make when they do nothing else: what signed mail is compared with.

use std::time::Instant;

use anyhow::Context as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;

use super::cpu::Used;
use super::path::Run;

/// Makes so many signatures of 32 octets, on a thread for each core.
///
/// # Errors
/// The system gives no randomness or no threads.
pub(super) async fn sign(signatures: u64) -> anyhow::Result<Run> {
    let cores = std::thread::available_parallelism()?.get() as u64;
    let pem = node::dkim::generate_rsa_2048().context("making an RSA key")?;
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes())?;
    let key = RsaKeyPair::from_pkcs8(der.secret_der())?;
    let each = signatures.div_ceil(cores);
    let (time, cpu) = tokio::task::spawn_blocking(move || {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..cores).map(|_| scope.spawn(|| sign_many(&key, each))).collect();
            threads.into_iter().try_for_each(|thread| {
                let ended = thread.join();
                ended.unwrap_or_else(|_| anyhow::bail!("a signing thread has panicked"))
            })
        })?;
        // Nothing of the product is at work.
        anyhow::Ok((begun.elapsed(), Used::default()))
    })
    .await??;
    Ok(Run { messages: each * cores, time, cpu, octets: 0 })
}

fn sign_many(key: &RsaKeyPair, count: u64) -> anyhow::Result<()> {
    let random = SystemRandom::new();
    let mut signature = vec![0; key.public_modulus_len()];
    for number in 0..count {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_be_bytes());
        key.sign(&RSA_PKCS1_SHA256, &random, &digest, &mut signature)?;
        core::hint::black_box(&signature);
    }
    Ok(())
}
