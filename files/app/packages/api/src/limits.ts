/** The largest asset, in bytes. The frontend's nginx lets a little more pass, so that the api is the one that says so. */
export const MAXIMUM_ASSET_BYTES = 5 * 1024 * 1024;
