// Loads the page. Browsers give up what they are loading when the network of the
// machine that they run on changes; on a KVM host it does with every guest that
// starts. The page is then loaded again.

const again = 700;

import('./app.js').catch(() => setTimeout(() => location.reload(), again));
